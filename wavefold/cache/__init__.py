"""The state of sequences: a paged pool of compressed entries, and a fixed state per sequence (windows, tails)."""

from wavefold.cache.blocks import BlockAllocator, PoolFull
from wavefold.cache.chain import Chain, adapter_root
from wavefold.cache.layout import BLOCK_TOKENS, REWIND, CacheLayout, Rows, entries_of, keys_of
from wavefold.cache.paged_view import PagedView
from wavefold.cache.pool import Pool
from wavefold.cache.prefix import PrefixCache
from wavefold.cache.record import Record, Records, packed_records, plain_records
from wavefold.cache.sequence import Sequence
from wavefold.cache.snapshot import Snapshot
from wavefold.cache.space import Space
from wavefold.cache.tip import Tip
from wavefold.cache.view import FreshView, View

__all__ = [
    "BLOCK_TOKENS",
    "REWIND",
    "BlockAllocator",
    "CacheLayout",
    "Chain",
    "FreshView",
    "PagedView",
    "Pool",
    "PoolFull",
    "PrefixCache",
    "Record",
    "Records",
    "Rows",
    "Sequence",
    "Snapshot",
    "Space",
    "Tip",
    "View",
    "adapter_root",
    "entries_of",
    "keys_of",
    "packed_records",
    "plain_records",
]  # fmt: skip
