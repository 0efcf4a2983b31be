"""A plan: all figures of a model at one context length, and their course from 4K to 1M tokens."""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.config import ModelConfig
from wavefold.plan.baseline import gqa8_kv_bytes, v32_decode_flops, v32_kv_bytes, v32_prefill_flops
from wavefold.plan.cache import kv_bytes, packed, state_bytes
from wavefold.plan.flops import CONVENTIONS, Convention, decode_flops, prefill_flops
from wavefold.plan.tensors import tensor_kinds

SWEEP = tuple(2**power for power in range(12, 21))


@dataclass(frozen=True)
class Plan:
    """Counts and bytes of a model; FLOPs are of one token, under the published ratios' convention."""

    context: int
    num_tensors: int
    weight_bytes: int
    params: int
    active_params: int
    flops_per_token: float
    flops_ratio_v32: float
    prefill_flops_per_token: float
    prefill_flops_ratio_v32: float
    kv_bytes: int
    kv_ratio_v32: float
    kv_ratio_gqa8: float
    state_bytes: int


def plan(config: ModelConfig, context: int) -> Plan:
    """The plan of a model. Raises ValueError for a context that is not positive or longer than the model's."""
    if not 0 < context <= config.max_position_embeddings:
        raise ValueError(f"context = {context} is not allowed; expected 1 to {config.max_position_embeddings}")
    kinds = tensor_kinds(config)
    published = CONVENTIONS[0]
    flops = decode_flops(config, context).total(published)
    prefill = prefill_flops(config, context).total(published)
    cache = kv_bytes(config, context, packed(config))
    return Plan(
        context=context,
        num_tensors=sum(kind.num_tensors for kind in kinds),
        weight_bytes=sum(kind.bytes for kind in kinds),
        params=sum(kind.values for kind in kinds if kind.precision != "int64"),
        active_params=sum(kind.active_values for kind in kinds),
        flops_per_token=flops,
        flops_ratio_v32=flops_ratio(config, context, published),
        prefill_flops_per_token=prefill,
        prefill_flops_ratio_v32=prefill / v32_prefill_flops(context).total(published),
        kv_bytes=cache,
        kv_ratio_v32=cache / v32_kv_bytes(context),
        kv_ratio_gqa8=cache / gqa8_kv_bytes(config, context),
        state_bytes=state_bytes(config, packed(config)),
    )


def flops_ratio(config: ModelConfig, context: int, convention: Convention) -> float:
    """The model's operations for a decoded token over DeepSeek-V3.2's."""
    return decode_flops(config, context).total(convention) / v32_decode_flops(context).total(convention)


def sweep(config: ModelConfig) -> list[Plan]:
    """Plans from 4K to 1M tokens, up to the longest context of the model."""
    return [plan(config, context) for context in SWEEP if context <= config.max_position_embeddings]
