"""The cache, really allocated: a pool and one sequence's state for many tokens, every page touched."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from wavefold.cache import Pool, Records, packed_records, plain_records
from wavefold.config import ModelConfig
from wavefold.plan import cache as plan_cache
from wavefold.system import rss_bytes

RECORDS = ("packed", "bfloat16", "float32")


@dataclass(frozen=True)
class PoolRow:
    """Bytes by the plan's formulas, bytes allocated, and the growth of the process's resident memory."""

    tokens: int
    records: str
    planned_bytes: int
    allocated_bytes: int
    rss_bytes: int


def records_named(config: ModelConfig, name: str) -> tuple[Records, plan_cache.RecordBytes]:
    """Records of the cache, and the plan's account of them."""
    if name == "packed":
        return packed_records(config), plan_cache.packed(config)
    if name not in RECORDS:
        raise ValueError(f"records {name!r} are not allowed; expected {', '.join(RECORDS)}")
    dtype = getattr(torch, name)
    return plain_records(config, dtype), plan_cache.plain(config, dtype.itemsize)


def planned_bytes(config: ModelConfig, num_tokens: int, name: str) -> int:
    """Bytes of a sequence of this length by the plan's formulas: whole blocks and its state."""
    _, sizes = records_named(config, name)
    return plan_cache.pool_bytes(config, num_tokens, sizes) + plan_cache.state_bytes(config, sizes)


def allocate(config: ModelConfig, num_tokens: int, name: str) -> PoolRow:
    """Open a pool and a sequence, write to every page of both, and give them back.

    Raises ValueError, before anything is allocated, for more tokens than the model or the machine has room for.
    """
    if not 0 < num_tokens <= config.max_position_embeddings:
        raise ValueError(f"{num_tokens} tokens are not allowed; expected 1 to {config.max_position_embeddings}")
    records, _ = records_named(config, name)
    gc.collect()  # garbage that goes meanwhile would count against the pool
    before = rss_bytes()
    pool = Pool(config, num_tokens, records, poison=True)  # poison writes all of the storage and of a state
    pool.open()
    grown = rss_bytes() - before
    return PoolRow(num_tokens, name, planned_bytes(config, num_tokens, name), pool.num_bytes, grown)
