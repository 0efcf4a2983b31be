"""The state of sequences: a paged pool of compressed entries, and a fixed state per sequence (windows, tails)."""

from wavefold.cache.blocks import BlockAllocator, PoolFull
from wavefold.cache.layout import BLOCK_TOKENS, REWIND, CacheLayout, Rows, entries_of, keys_of
from wavefold.cache.memory import FreshMemory, Memory
from wavefold.cache.pool import PagedMemory, Pool, Sequence
from wavefold.cache.record import Record, Records, packed_records, plain_records

__all__ = [
    "BLOCK_TOKENS", "REWIND", "BlockAllocator", "CacheLayout", "FreshMemory", "Memory", "PagedMemory", "Pool",
    "PoolFull", "Record", "Records", "Rows", "Sequence", "entries_of", "keys_of", "packed_records", "plain_records",
]  # fmt: skip
