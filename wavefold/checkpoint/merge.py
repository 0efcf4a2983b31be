"""An adapter added to the weights of its base: W' = decode(W) + scale B A, in float32, then in the format of W or not.

Rounded, it is what a merged checkpoint holds, and a delta below half a step of the format moves no weight. Unrounded,
it is what the adapter computes beside the base, up to the rounding of activations.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from wavefold import quant
from wavefold.model import Transformer
from wavefold.model.official import Matrix, official_owner
from wavefold.ops import Adapter
from wavefold.quant import Weight

QUANTIZE = {"fp4": quant.quantize_fp4, "fp8": quant.quantize_fp8}

ROUTED = re.compile(r"layers\.(\d+)\.ffn\.experts\.(\d+)\.(w[123])")

Products = dict[str, tuple[float, float]]
"""By matrix, in float64: <stored, delta> and <delta, delta>, where stored = decode(W') - decode(W)."""


@torch.no_grad()
def merge(model: Transformer, adapter: Adapter, rounded: bool = True) -> Products:
    """Adds an adapter to the weights of its base, `model`, and says how much of the delta is stored.

    `rounded`: each weight keeps its format; else the adapted ones are float32. Raises ValueError for weights in a GGUF
    file's blocks, and then changes nothing, and for an adapter whose numbers are too large.
    """
    for name in adapter.parts:
        if (packed := _owner(model, name).packed) is not None:
            raise ValueError(f"{name} is in {packed.name}, which is not written; expected a base in a folder")
    products: Products = {}
    for name, part in adapter.parts.items():
        owner = _owner(model, name)
        base = owner.stored.decode(torch.float32)
        delta = (part.up.float().T * part.scale) @ part.down.float()
        if not bool(delta.isfinite().all()):
            raise ValueError(f"adapter {adapter.name}: what it adds to {name} is too large for float32; make it again")
        weight, scale = _stored(owner, base + delta) if rounded else (base + delta, None)
        _put(model, name, weight, scale)
        stored = _owner(model, name).stored.decode(torch.float32)
        change, wide = stored.double() - base.double(), delta.double()
        products[name] = float((change * wide).sum()), float((wide * wide).sum())
    return products


def _owner(model: Transformer, name: str) -> Matrix:
    return official_owner(model, name)  # type: ignore[return-value]


def _put(model: Transformer, name: str, weight: Tensor, scale: Tensor | None) -> None:
    """Replaces a matrix of the model."""
    if (found := ROUTED.fullmatch(name)) is not None:
        layer, expert, store = int(found[1]), int(found[2]), model.experts.store
        changed = {found[3]: Weight.of(weight, scale)}
        store.put(layer, expert, store.stored(layer, expert)._replace(**changed))
        return
    module = model.get_submodule(name)
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    module.register_parameter("scale", None if scale is None else nn.Parameter(scale, requires_grad=False))


def _stored(owner: Matrix, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns a weight, and its scale, in the format that the owner's is in."""
    form = owner.stored.format.name
    return QUANTIZE[form](weight) if form in QUANTIZE else (weight.to(owner.weight.dtype), None)
