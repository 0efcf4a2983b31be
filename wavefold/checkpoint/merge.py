"""An adapter added to the weights of its base: W' = decode(W) + scale B A, in float32, then in the format of W or not.

Rounded, it is what a merged checkpoint holds, and a delta below half a step of the format moves no weight. Unrounded,
it is what the adapter computes beside the base, up to the rounding of activations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import quant
from wavefold.model import Transformer
from wavefold.model.parameters import Linear
from wavefold.ops import Adapter

QUANTIZE = {"fp4": quant.quantize_fp4, "fp8": quant.quantize_fp8}

Products = dict[str, tuple[float, float]]
"""By matrix, in float64: <stored, delta> and <delta, delta>, where stored = decode(W') - decode(W)."""


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter, rounded: bool = True) -> Products:
    """Adds an adapter to the weights of its base, `model`, and says how much of the delta is stored.

    `rounded`: each weight keeps its format; else the adapted ones are float32. Raises ValueError, and changes nothing,
    for weights in a GGUF file's blocks.
    """
    modules: dict[str, Linear] = {name: model.get_submodule(name) for name in adapter.parts}  # type: ignore[misc]
    for name, module in modules.items():
        if module.packed is not None:
            raise ValueError(f"{name} is in {module.packed.name}, which is not written; expected a base in a folder")
    products: Products = {}
    for name, part in adapter.parts.items():
        module = modules[name]
        base = module.stored.decode(torch.float32)
        delta = (part.up.float().T * part.scale) @ part.down.float()
        weight, scale = _stored(module, base + delta) if rounded else (base + delta, None)
        module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
        module.register_parameter("scale", None if scale is None else nn.Parameter(scale, requires_grad=False))
        stored: Tensor = module.stored.decode(torch.float32)
        change, wide = stored.double() - base.double(), delta.double()
        products[name] = float((change * wide).sum()), float((wide * wide).sum())
    return products


def _stored(module: Linear, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns a weight, and its scale, in the format that the module's is in."""
    form = module.stored.format.name
    return QUANTIZE[form](weight) if form in QUANTIZE else (weight.to(module.weight.dtype), None)
