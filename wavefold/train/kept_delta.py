"""Measures how much of an adapter's delta survives when the merged weight is stored in the format of the base.

    delta     alpha / rank * B A
    stored    decode(quantize(decode(W) + delta)) - decode(W)
    kept      <stored, delta> / <delta, delta>           1: all of it; 0: the merged weight equals the base

A delta below half a step of FP8 moves no weight. So a small adapter is lost when it is merged, but not when it is
stored beside the base (adapters.safetensors, OUT/adapter).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wavefold import quant
from wavefold.model.parameters import Linear
from wavefold.system import Notice
from wavefold.train.fake_quant import Masters
from wavefold.train.lora import has_adapter

ENOUGH = 0.9
"""A smaller share triggers a Notice."""


@torch.no_grad()
def kept_products(masters: Masters, parameters: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Returns (<stored, delta>, <delta, delta>) in float64, by adapted module. `parameters`: whole, by name."""
    products: dict[str, tuple[float, float]] = {}
    for name, module in masters.model.named_modules():
        if not isinstance(module, Linear) or not has_adapter(module):
            continue
        tensors = {key: parameters[f"{name}.{key}"] for key, _ in module.named_parameters(recurse=False)}
        base = quant.dequantize(tensors["weight"], tensors.get("scale"), torch.float32)
        delta = ((tensors["lora_b"] @ tensors["lora_a"]) * module.lora_scale).double()  # type: ignore[operator]
        codes = masters.stored(module, tensors, masters.forms[f"{name}.weight"])
        stored = quant.dequantize(codes["weight"], codes.get("scale"), torch.float32).double() - base.double()
        products[name] = float((stored * delta).sum()), float((delta * delta).sum())
    return products


def kept_share(products: Mapping[str, tuple[float, float]]) -> float | None:
    """Returns the kept share over all modules together, or None if every delta is zero."""
    norm = sum(norm for _, norm in products.values())
    return sum(product for product, _ in products.values()) / norm if norm else None


def kept_report(products: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Returns the entry of report.json: the share over all modules, and the least and the mean share of a module.

    Modules with a zero delta are left out. Warns with a Notice if the share is below `ENOUGH`.
    """
    share = kept_share(products)
    shares = {name: product / norm for name, (product, norm) in products.items() if norm}
    if share is None:
        return {"kept": None, "least": None, "mean": None, "modules": {}}
    if share < ENOUGH:
        warnings.warn(
            f"the base's format keeps {share:.3f} of the adapters' delta in the merged model (1 is all of it). Use the "
            "adapters unmerged (adapters.safetensors, or OUT/adapter with PEFT), a larger peak_lr or more steps, or a "
            "bfloat16 base",
            Notice,
            stacklevel=2,
        )
    return {"kept": share, "least": min(shares.values()), "mean": sum(shares.values()) / len(shares), "modules": shares}
