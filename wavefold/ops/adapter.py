"""Low-rank adapters (arXiv:2106.09685) beside weights that stay as they are: y = W x + scale B (A x).

The meaning here; the CPU kernels do the same inside their passes (csrc/low_rank.h). W x is rounded to the activations'
dtype as without an adapter. The addition is computed in the wide dtype and the sum is rounded once more: in bfloat16 an
output is within one unit in its last place of the sum, half a unit more than if it were rounded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.ops import native
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import counted


class LowRank(NamedTuple):
    """What is added to the product with a matrix [out, in]: `down` = A [rank, in], `up` = B transposed [rank, out].

    Both are contiguous, bfloat16 or float32.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def num_bytes(self) -> int:
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter of one model. `parts` by the official name of the matrix: layers.3.attn.wq_a.

    `digest`: 32 bytes of all that decides its results. `num_experts`: of the layers whose routed experts have parts;
    0: none has.
    """

    name: str
    parts: Mapping[str, LowRank]
    digest: bytes
    num_experts: int = 0
    _structs: dict[tuple[int, ...], native.AdapterStructs | None] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, parts: Mapping[str, LowRank], num_experts: int = 0) -> Adapter:
        """Returns the adapter of these parts, with their digest."""
        digest = hashlib.sha256()
        for place in sorted(parts):
            part = parts[place]
            digest.update(repr((place, part.down.dtype, part.down.shape, part.up.shape, part.scale)).encode())
            for tensor in (part.down, part.up):
                digest.update(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
        return cls(name, parts, digest.digest(), num_experts)

    @property
    def num_bytes(self) -> int:
        """Bytes of its matrices."""
        return sum(part.num_bytes for part in self.parts.values())

    def structs(self, layers: Sequence[int]) -> native.AdapterStructs | None:
        """Returns the adapter by layer as the CPU kernels take it, or None if it has no part in these layers."""
        key = tuple(layers)
        if key not in self._structs:
            by_layer = [
                ({name: self.parts.get(f"layers.{layer}.{place}") for name, place in PLACES.items()},
                 self._experts(layer)) for layer in key
            ]  # fmt: skip
            is_there = any(any(parts.values()) or experts for parts, experts in by_layer)
            self._structs[key] = native.adapter_structs(by_layer) if is_there else None
        return self._structs[key]

    def _experts(self, layer: int) -> list[LowRank | None]:
        """Returns the parts of w1, w2 and w3 of each routed expert of a layer; an empty list where there are none."""
        places = [routed_place(layer, number, name) for number in range(self.num_experts) for name in EXPERT_MATRICES]
        parts = [self.parts.get(place) for place in places]
        return parts if any(parts) else []


EXPERT_MATRICES = ("w1", "w2", "w3")


def routed_place(layer: int, expert: int, name: str) -> str:
    """Returns the official name of a routed expert's matrix."""
    return f"layers.{layer}.ffn.experts.{expert}.{name}"


PLACES = {
    "wq_a": "attn.wq_a", "wq_b": "attn.wq_b", "wkv": "attn.wkv", "wo_b": "attn.wo_b",
    "w1": "ffn.shared_experts.w1", "w2": "ffn.shared_experts.w2", "w3": "ffn.shared_experts.w3",
}  # fmt: skip
"""The matrices of a layer that may be adapted: the kernels' name and the official one after layers.N."""


@counted("adapter", lambda y, x, part, *_: 2 * len(x) * (part.down.numel() + part.up.numel()))
def add_low_rank(y: Tensor, x: Tensor, part: LowRank, arithmetic: Arithmetic) -> Tensor:
    """y [n, out], x [n, in] -> y + scale (x A^T) B^T [n, out], in y's dtype."""
    wide = arithmetic.accumulate
    down, up = part.down.to(x.device, wide), part.up.to(x.device, wide)
    return (y.to(wide) + (x.to(wide) @ down.T) * part.scale @ up).to(y.dtype)
