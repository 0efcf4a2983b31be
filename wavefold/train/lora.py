"""Low-rank adapters (arXiv:2106.09685) on attention and shared parts; the checkpoint's weights stay as stored.

    W' = quantize(decode(W) + alpha / rank * B A)        A [rank, in] random, B [out, rank] zeros: training begins at W

The adapted weight is rounded to the format of the weight, as every trained weight is. So the merged export computes the
trained numbers. Routed experts, router, norms and embedding have no adapters; an export keeps their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from wavefold import quant
from wavefold.checkpoint.fingerprint import fingerprint, identity
from wavefold.checkpoint.write import save_tensors
from wavefold.model import Transformer
from wavefold.model.official import Matrix, official_tensors
from wavefold.model.parameters import Linear

BASE = "base"
"""Metadata key of the identity of the base."""

ADAPTED = ("wq_a", "wq_b", "wkv", "wo_b", "w1", "w2", "w3")
"""Projections of attention except the grouped one, and those of the shared expert."""


def add_adapters(model: Transformer, rank: int, alpha: float, seed: int) -> list[str]:
    """Adds adapters to the model and freezes all other parameters. Returns the names of the adapted modules.

    Raises ValueError for a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"lora_rank = {rank} is not allowed; expected 1 or more")
    for _, tensor in official_tensors(model):
        tensor.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    names = []
    for name, module in model.named_modules():
        place = name.split(".")
        if isinstance(module, Linear) and place[-1] in ADAPTED and place[-2] in ("attn", "shared_experts"):
            module.lora_a = nn.Parameter(
                torch.randn(rank, module.in_features, generator=generator) * module.in_features**-0.5
            )
            module.lora_b = nn.Parameter(torch.zeros(module.out_features, rank))
            vars(module)["lora_scale"] = alpha / rank
            names.append(name)
    return names


def has_adapter(matrix: Matrix) -> bool:
    """True if the matrix has an adapter. Matrices of routed experts never have one."""
    return isinstance(matrix, Linear) and "lora_a" in matrix._parameters


def adapted(matrix: Matrix, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Returns the weight [out, in] of a matrix with these tensors, with its adapter added.

    A packed weight with an adapter is decoded to float32. Returns None for a packed weight without one, which stays as
    it is stored.
    """
    weight, scale = tensors["weight"], tensors.get("scale")
    if not has_adapter(matrix):
        return weight if scale is None else None
    if scale is not None:
        weight = quant.dequantize(weight, scale, torch.float32)
    return weight + (tensors["lora_b"] @ tensors["lora_a"]) * matrix.lora_scale  # type: ignore[operator, union-attr]


def is_adapter(name: str) -> bool:
    """True if a parameter of this name belongs to an adapter."""
    return name.endswith((".lora_a", ".lora_b"))


@torch.no_grad()
def apply_adapters(model: Transformer, path: Path) -> None:
    """Adds the adapters of the file `path` (adapters.safetensors) to the weights of their base, `model`, unrounded.

    The adapted weights become float32, decode(W) + delta. The merged export differs: it rounds the sums to the format
    of the base. Raises ValueError for adapters of another model.
    """
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        base = (file.metadata() or {}).get(BASE)
    if base and model.origin is not None and base != identity(fingerprint(model.origin.folder)):
        raise ValueError(
            f"{path}: holds adapters of other weights than {model.origin.folder}'s; expected their base model"
        )
    names = sorted({name.rpartition(".")[0] for name in tensors})
    modules = dict(model.named_modules())
    for name in names:
        module = modules.get(name)
        a, b = tensors.get(f"{name}.lora_a"), tensors.get(f"{name}.lora_b")
        if not isinstance(module, Linear) or a is None or b is None:
            raise ValueError(f"{path}: holds an adapter of {name}, which this model has not; expected its base model's")
        if (b.shape[0], a.shape[1]) != (module.out_features, module.in_features):
            raise ValueError(
                f"{path}: the adapter of {name} is [{b.shape[0]}, {a.shape[1]}]; expected "
                f"[{module.out_features}, {module.in_features}], as in its base model"
            )
    for name in names:
        module = modules[name]
        weight = quant.dequantize(module.weight, module.scale, torch.float32)  # type: ignore[arg-type]
        delta = tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]
        module.register_parameter("weight", nn.Parameter(weight + delta, requires_grad=False))
        module.register_parameter("scale", None)


def save_adapters(model: Transformer, parameters: Mapping[str, Tensor], path: Path, base: str = "") -> None:
    """Writes the adapters alone to a safetensors file. A delta is (scale B) A.

    `parameters`: whole parameters of the model by name. `base`: identity of the weights under the adapters
    (`fingerprint.identity`), which `apply_adapters` compares.
    """
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and has_adapter(module):
            tensors[f"{name}.lora_a"] = parameters[f"{name}.lora_a"].detach()
            tensors[f"{name}.lora_b"] = (parameters[f"{name}.lora_b"] * module.lora_scale).detach()  # type: ignore
    save_tensors(tensors, path, {BASE: base} if base else None)
