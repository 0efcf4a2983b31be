"""Random checkpoints with real shapes and formats: for tests, and for benches that need a slice of a large model.

Every part is alive: projections keep the size of their input, gains differ, scales differ from block to block, so that
a misplaced scale or an unused parameter shows. A tensor depends on the seed and its name alone.

Large tensors are drawn from tables: random bytes are looked up among the quantiles of a normal distribution, 256 of
them for a code, 65,536 for a bfloat16 value. A code takes 1.5 ns and a bfloat16 value 4 ns, where a normal number takes
8 ns before it is rounded.
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
from wavefold.checkpoint.write import Entry, write_checkpoint
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import MATRIX, Owner, official_owners, own_tensors
from wavefold.ops import Arithmetic

CODE_STD = 2.0
"""Standard deviation of random FP4 codes; FP8 codes are 2^5 times as large."""

DRAWN_AT_ONCE = 1 << 17


def random_checkpoint(
    config: ModelConfig,
    path: str | Path,
    seed: int,
    on_shard: Callable[[int, int], None] = lambda done, of: None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a random checkpoint of `config` to the folder `path`, one tensor in memory at a time.

    `on_shard(done, of)` reports progress; `finish(folder)` may add files before the folder appears. Raises ValueError
    when the disk is too small, and unless `path` is new, an empty folder or a checkpoint.
    """
    write_checkpoint(Path(path), config, dict(_entries(Transformer(config), seed, packed=True)), on_shard, finish)


def random_model(
    config: ModelConfig, seed: int, arithmetic: Arithmetic | None = None, packed: bool = False
) -> Transformer:
    """A random model in memory, in float32 (`packed`: in the official formats)."""
    model = Transformer(config, arithmetic)
    assign(model, {name: entry.make() for name, entry in _entries(model, seed, packed)})
    return model


def _entries(model: Transformer, seed: int, packed: bool) -> Iterator[tuple[str, Entry]]:
    """All tensors in the official order."""
    for prefix, owner in official_owners(model):
        for name, tensor in own_tensors(owner).items():
            full = f"{prefix}.{name}" if prefix else name
            shape, dtype = tuple(tensor.shape), tensor.dtype
            if isinstance(owner, MATRIX) and not packed:
                if name == "scale":
                    continue
                shape = owner.out_features, owner.in_features
            if not packed and name != "tid2eid":
                dtype = torch.float32
            yield full, Entry(shape, dtype, _maker(full, shape, dtype, owner, model.config, seed))


def _maker(
    full: str, shape: tuple[int, ...], dtype: torch.dtype, owner: Owner, config: ModelConfig, seed: int
) -> Callable[[], Tensor]:
    name = full.rpartition(".")[2]

    def make() -> Tensor:
        rng = np.random.default_rng((seed, zlib.crc32(full.encode())))
        if name == "tid2eid":
            return _expert_table(rng, shape, config.n_routed_experts)
        if name == "scale":
            assert isinstance(owner, MATRIX)
            code_std = CODE_STD * (32 if owner.form == "fp8" else 1)
            center = 127 + round(math.log2(owner.in_features**-0.5 / code_std))
            exponents = rng.integers(center - 1, center + 2, shape)
            return torch.from_numpy(exponents.astype(np.uint8)).view(torch.float8_e8m0fnu)
        if dtype == torch.int8:
            return _draw(rng, shape, _FP4_BYTES).view(torch.int8)
        if dtype == torch.float8_e4m3fn:
            return _draw(rng, shape, _FP8_CODES).view(dtype)
        mean, std = _spread(full, owner, shape)
        if dtype == torch.bfloat16:
            table = (mean + std * _NORMAL).to(dtype).view(torch.int16)
            return _draw(rng, shape, table.numpy()).view(dtype)
        return mean + std * torch.from_numpy(rng.standard_normal(shape, np.float32))

    return make


def _spread(full: str, owner: Owner, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if isinstance(owner, MATRIX):
        return 0.0, owner.in_features**-0.5
    if "norm" in full or full.endswith("_scale"):  # gains around 1
        return 1.0, 0.1
    if full.endswith(("_base", "bias")):
        return 0.0, 0.3
    if full.endswith(("_fn", ".gate.weight")):
        return 0.0, shape[1] ** -0.5
    return 0.0, 1.0


def _draw(rng: np.random.Generator, shape: tuple[int, ...], table: np.ndarray) -> Tensor:
    """Values of `table` [256 or 65536], each as likely as the others."""
    index = np.uint8 if len(table) == 256 else np.uint16
    out = np.empty(math.prod(shape), table.dtype)
    for part in np.split(out, range(DRAWN_AT_ONCE, len(out), DRAWN_AT_ONCE)):
        np.take(table, np.frombuffer(rng.bytes(len(part) * index().itemsize), index), out=part, mode="clip")
    return torch.from_numpy(out).view(shape)


def _expert_table(rng: np.random.Generator, shape: tuple[int, ...], num_experts: int) -> Tensor:
    """tid2eid [vocab, k]: k distinct experts for each token, the first k places of a shuffle."""
    places = np.tile(np.arange(num_experts, dtype=np.int16), (shape[0], 1))
    rows = np.arange(shape[0])
    for place in range(shape[1]):
        other = rng.integers(place, num_experts, shape[0])
        places[rows, other], places[:, place] = places[:, place].copy(), places[rows, other]
    return torch.from_numpy(places[:, : shape[1]].astype(np.int64))


def _quantiles(count: int) -> Tensor:
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


def _fp4_bytes() -> np.ndarray:
    """256 pairs of FP4 codes, of roughly normal values."""
    values = _quantiles(16) * CODE_STD * 1.1
    high, low = torch.meshgrid(values, values, indexing="ij")
    return quant.e2m1.encode(torch.stack((low, high), -1).flatten()).view(torch.uint8).numpy()


_FP4_BYTES = _fp4_bytes()
_FP8_CODES = (_quantiles(256) * CODE_STD * 32).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
_NORMAL = _quantiles(65536)
