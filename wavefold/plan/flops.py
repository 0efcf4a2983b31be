"""Floating-point operations of one token, decoded or in a prompt, by part and by precision (2 for each multiply-add).

    V4     2 P_active + 2 heads_i dim_i N_csa n/4 + 4 c H (N_csa min(k, n/4) + N_hca n/128 + L min(128, n))
    V3.2   2 P_active + L (2 heads_i dim_i n + 2 H min(2048, n) (576 + 512))

"Equivalent FP8 FLOPs", the convention under which both published ratios come out: FP8 and FP4 matrices count 1,
bfloat16 and float32 ones and the attention core 2, V4's index scores (FP4) 1/2, V3.2's (FP8) 1. The report does not
state the weights; other conventions give other ratios, and are printed beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wavefold.config import COMPRESSIONS, WINDOW_PART, Compression, ModelConfig
from wavefold.plan.tensors import num_layers, tensor_kinds

PRECISIONS = ("fp8", "fp4", "bf16", "fp32")


@dataclass(frozen=True)
class Convention:
    """The weight of an operation, by precision of a linear's weight, and for attention and index scores."""

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
    """Raw operations: of linears by the precision of their weight, of index scores, of attention by part."""

    linear: Mapping[str, float]
    index: float
    attention: Mapping[str, float]
    index_is_fp4: bool = True

    @property
    def raw(self) -> float:
        return sum((*self.linear.values(), self.index, *self.attention.values()))

    def of(self, part: str) -> float:
        """Operations of one part: "linear", "index", or one of attention's."""
        return {"linear": sum(self.linear.values()), "index": self.index, **self.attention}[part]

    def weighted(self, convention: Convention) -> dict[str, float]:
        """Each part under a convention."""
        linear = sum(
            count * {"fp8": 1.0, "fp4": convention.fp4}.get(precision, convention.wide)
            for precision, count in self.linear.items()
        )
        index = convention.index_v4 if self.index_is_fp4 else convention.index_v32
        parts = {"linear": linear, "index": self.index * index}
        return parts | {part: count * convention.attention for part, count in self.attention.items()}

    def total(self, convention: Convention) -> float:
        return sum(self.weighted(convention).values())


@dataclass(frozen=True)
class Reach:
    """Rows that a token's query meets in one layer: index keys scored and entries attended, by part; window rows."""

    keys: Mapping[str, float]
    entries: Mapping[str, float]
    window: float

    @classmethod
    def of_token(cls, config: ModelConfig, context: int) -> Reach:
        """The token that makes `context` tokens."""
        return cls(
            keys={c.part: context // c.ratio for c in COMPRESSIONS if c.indexed},
            entries={c.part: _capped(config, c, context // c.ratio) for c in COMPRESSIONS},
            window=min(config.sliding_window, context),
        )

    @classmethod
    def mean(cls, config: ModelConfig, num_tokens: int) -> Reach:
        """The tokens of a prompt of `num_tokens`, on average."""
        most = {c.part: config.index_topk if c.indexed else None for c in COMPRESSIONS}
        return cls(
            keys={c.part: sum_visible(num_tokens, c.ratio) / num_tokens for c in COMPRESSIONS if c.indexed},
            entries={c.part: sum_visible(num_tokens, c.ratio, most[c.part]) / num_tokens for c in COMPRESSIONS},
            window=sum_visible(num_tokens, 1, config.sliding_window) / num_tokens,
        )


def _capped(config: ModelConfig, compression: Compression, entries: int) -> int:
    """The number of attended entries among `entries` visible ones."""
    return min(config.index_topk, entries) if compression.indexed else entries


def sum_visible(num_tokens: int, ratio: int, most: int | None = None) -> int:
    """The sum of min(t // ratio, most) over t = 1 .. num_tokens."""
    if most is not None:
        rising = min(num_tokens, most * ratio - 1)
        return sum_visible(rising, ratio) + most * (num_tokens - rising)
    blocks, rest = divmod(num_tokens, ratio)
    return ratio * blocks * (blocks - 1) // 2 + blocks * (rest + 1)


def decode_flops(config: ModelConfig, context: int) -> Flops:
    """One token decoded with `context` tokens before and with it."""
    return _flops(config, Reach.of_token(config, context), 1)


def prefill_flops(config: ModelConfig, num_tokens: int) -> Flops:
    """A token of a prompt of `num_tokens`, on average. Only the last one meets the head."""
    return _flops(config, Reach.mean(config, num_tokens), 1 / num_tokens)


def _flops(config: ModelConfig, reach: Reach, head: float) -> Flops:
    linear: dict[str, float] = dict.fromkeys(PRECISIONS, 0)
    for kind in tensor_kinds(config):
        if kind.active:
            linear[kind.precision] += 2 * kind.active_values * (head if kind.part == "head" else 1)
    core = 4 * config.head_dim * config.num_attention_heads
    index = 2 * config.index_n_heads * config.index_head_dim
    layers = {c.part: num_layers(config, c) for c in COMPRESSIONS}
    attention = {part: layers[part] * core * rows for part, rows in reach.entries.items()}
    return Flops(
        linear=linear,
        index=sum(layers[part] * index * rows for part, rows in reach.keys.items()),
        attention=attention | {WINDOW_PART: config.num_hidden_layers * core * reach.window},
    )
