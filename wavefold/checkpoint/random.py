"""Random checkpoints with real shapes and formats: for tests, and for benches that need a slice of a large model.

Every part is alive: projections keep the size of what goes in, gains differ, scales differ from block to block, so that
a misplaced scale or an unused parameter shows. A tensor depends on the seed and its name alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavefold import quant
from wavefold.checkpoint.load import assign
from wavefold.checkpoint.save import shard_names, write_folder, write_shards
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.parameters import Linear
from wavefold.ops import Arithmetic

CODE_STD = 2.0
"""Standard deviation of random FP4 codes; FP8 codes are 2^5 times as large."""


def init(
    config: ModelConfig,
    path: str | Path,
    seed: int,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Write a random checkpoint of `config` to the folder `path`, one shard in memory at a time."""
    model = Transformer(config)
    makers = dict(_makers(model, seed, packed=True))

    def make(names: list[str]) -> dict[str, Tensor]:
        return {name: makers[name]() for name in names}

    def fill(folder: Path) -> None:
        shards = shard_names(list(makers), config)

        def parts():  # type: ignore[no-untyped-def]
            for number, names in enumerate(shards):
                on_shard(number, len(shards))
                yield names, make
            on_shard(len(shards), len(shards))

        write_shards(folder, config, parts())

    write_folder(Path(path), fill)


def random_model(
    config: ModelConfig, seed: int, arithmetic: Arithmetic | None = None, packed: bool = False
) -> Transformer:
    """A random model in memory, in float32 (`packed`: in the official formats)."""
    model = Transformer(config, arithmetic)
    assign(model, {name: make() for name, make in _makers(model, seed, packed)})
    return model


def _makers(model: Transformer, seed: int, packed: bool) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """(name, function that makes the tensor) for all tensors, in the module tree's order."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if isinstance(module, Linear) and (packed or name == "weight"):
                yield full, _linear_maker(module, full, name, seed, packed)
            elif not isinstance(module, Linear):
                dtype = parameter.dtype if packed or not parameter.dtype.is_floating_point else torch.float32
                yield (
                    full,
                    _plain_maker(full, name, tuple(parameter.shape), dtype, seed, model.config.n_routed_experts),
                )


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(name.encode())))


def _linear_maker(module: Linear, full: str, name: str, seed: int, packed: bool) -> Callable[[], Tensor]:
    form = module.form if packed else "fp32"
    std = module.in_features**-0.5

    def make() -> Tensor:
        rng = _generator(seed, full)
        if name == "scale":
            code_std = CODE_STD * (32 if form == "fp8" else 1)
            center = 127 + round(math.log2(std / code_std))
            assert module.scale is not None
            exponents = rng.integers(center - 1, center + 2, tuple(module.scale.shape))
            return torch.from_numpy(exponents.astype(np.uint8)).view(torch.float8_e8m0fnu)
        shape = module.out_features, module.in_features
        if form == "fp4":
            shape = module.out_features, module.in_features // 2
            codes = np.frombuffer(rng.bytes(math.prod(shape)), np.uint8)
            return torch.from_numpy(_FP4_BYTES[codes].reshape(shape).view(np.int8))
        values = torch.from_numpy(rng.standard_normal(shape, np.float32))
        if form == "fp8":
            return (values * (CODE_STD * 32)).to(torch.float8_e4m3fn)
        return (values * std).to(module.weight.dtype if packed else torch.float32)

    return make


def _plain_maker(
    full: str, name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, num_experts: int
) -> Callable[[], Tensor]:
    def make() -> Tensor:
        rng = _generator(seed, full)
        if name == "tid2eid":
            ids = np.stack([rng.permutation(num_experts)[: shape[1]] for _ in range(min(shape[0], 4096))])
            return torch.from_numpy(np.resize(ids, shape).astype(np.int64))
        values = torch.from_numpy(rng.standard_normal(shape, np.float32))
        if "norm" in full:  # gains around 1
            values = 1 + 0.1 * values
        elif name.endswith("_fn"):
            values = values * shape[1] ** -0.5
        elif name.endswith("_scale"):
            values = 1 + 0.1 * values
        elif name.endswith(("_base", "bias")):
            values = 0.3 * values
        elif full.startswith(("embed", "layers", "mtp")) and name == "weight" and ".gate." in full:
            values = values * shape[1] ** -0.5
        return values.to(dtype)

    return make


def _fp4_bytes() -> np.ndarray:
    """A table that turns a uniform random byte into two FP4 codes of roughly normal values."""
    quantiles = torch.special.ndtri((torch.arange(16) + 0.5) / 16) * CODE_STD * 1.1
    high, low = torch.meshgrid(quantiles, quantiles, indexing="ij")
    return quant.e2m1.encode(torch.stack((low, high), -1).flatten()).view(torch.uint8).numpy()


_FP4_BYTES = _fp4_bytes()
