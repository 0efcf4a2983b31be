"""Floating-point operations of one decoded token, by part and by precision (2 for each multiply-add).

    V4     2 P_active + 2 heads_i dim_i N_csa n/4 + 4 c H (N_csa min(k, n/4) + N_hca n/128 + L min(128, n))
    V3.2   2 P_active + L (2 heads_i dim_i n + 2 H min(2048, n) (576 + 512))

"Equivalent FP8 FLOPs", the convention under which both published ratios come out: FP8 and FP4 matrices count 1,
bfloat16 and float32 ones and the attention core 2, V4's index scores (FP4) 1/2, V3.2's (FP8) 1. The report does not
state the weights; other conventions give other ratios, and are printed beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wavefold.config import CSA, HCA, ModelConfig
from wavefold.plan.tensors import tensor_kinds

PRECISIONS = ("fp8", "fp4", "bf16", "fp32")


@dataclass(frozen=True)
class Convention:
    """What an operation counts, by precision of a linear's weight, and for attention and index scores."""

    name: str
    fp4: float = 1.0
    wide: float = 2.0
    attention: float = 2.0
    index_v4: float = 0.5
    index_v32: float = 1.0


CONVENTIONS = (
    Convention("equivalent FP8 FLOPs"),
    Convention("raw FLOPs", 1, 1, 1, 1, 1),
    Convention("attention counted once", attention=1),
    Convention("FP4 index scores counted as FP8", index_v4=1),
)


@dataclass(frozen=True)
class Flops:
    """Raw operations: of linears by the precision of their weight, of index scores, of each attention part."""

    linear: Mapping[str, int]
    index: int
    csa: int = 0
    hca: int = 0
    window: int = 0
    index_is_fp4: bool = True

    @property
    def raw(self) -> int:
        return sum(self.linear.values()) + self.index + self.csa + self.hca + self.window

    def weighted(self, convention: Convention) -> dict[str, float]:
        """Each part under a convention."""
        linear = sum(
            count * {"fp8": 1.0, "fp4": convention.fp4}.get(precision, convention.wide)
            for precision, count in self.linear.items()
        )
        index = convention.index_v4 if self.index_is_fp4 else convention.index_v32
        parts = {"linear": linear, "index": self.index * index}
        for part in ("csa", "hca", "window"):
            parts[part] = getattr(self, part) * convention.attention
        return parts

    def total(self, convention: Convention) -> float:
        return sum(self.weighted(convention).values())


def decode_flops(config: ModelConfig, context: int) -> Flops:
    """One token decoded with `context` tokens before and with it."""
    linear = dict.fromkeys(PRECISIONS, 0)
    for kind in tensor_kinds(config):
        if kind.active:
            linear[kind.precision] += 2 * kind.active_values
    core = 4 * config.head_dim * config.num_attention_heads
    layers = [config.compress_ratios[: config.num_hidden_layers].count(ratio) for ratio in (CSA, HCA)]
    return Flops(
        linear=linear,
        index=layers[0] * 2 * config.index_n_heads * config.index_head_dim * (context // CSA),
        csa=layers[0] * core * min(config.index_topk, context // CSA),
        hca=layers[1] * core * (context // HCA),
        window=config.num_hidden_layers * core * min(config.sliding_window, context),
    )
