"""Bytes of a sequence's cache at a context length. Report section 3.5.1; record sizes as deployed.

KV entry     nope FP8 codes, rope bfloat16, one UE8M0 scale for 64 codes, padded to 8      584 bytes at 448 + 64
index key    FP4 codes, one UE8M0 scale for 32                                              68 bytes at 128
"""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.config import CSA, HCA, ModelConfig
from wavefold.plan.tensors import num_layers

BLOCK_TOKENS = 128
REWIND = 16
KV_SCALE_BLOCK = 64
INDEX_SCALE_BLOCK = 32


def kv_record_bytes(config: ModelConfig) -> int:
    """One packed KV entry."""
    scales = -(-config.nope_head_dim // KV_SCALE_BLOCK)
    return -(-(config.nope_head_dim + 2 * config.qk_rope_head_dim + scales) // 8) * 8


def index_record_bytes(config: ModelConfig) -> int:
    """One packed index key."""
    return config.index_head_dim // 2 + -(-config.index_head_dim // INDEX_SCALE_BLOCK)


@dataclass(frozen=True)
class RecordBytes:
    """What one row costs in the cache."""

    kv: int
    index: int


def packed(config: ModelConfig) -> RecordBytes:
    return RecordBytes(kv_record_bytes(config), index_record_bytes(config))


def plain(config: ModelConfig, value_bytes: int) -> RecordBytes:
    """Rows of bfloat16 (2) or float32 (4) values."""
    return RecordBytes(value_bytes * config.head_dim, value_bytes * config.index_head_dim)


def kv_bytes(config: ModelConfig, context: int, records: RecordBytes) -> int:
    """Entries and index keys of `context` tokens, and 128 rows of window in each layer: what the report counts."""
    csa = num_layers(config, CSA) * (context // CSA) * (records.kv + records.index)
    hca = num_layers(config, HCA) * (context // HCA) * records.kv
    window = config.num_hidden_layers * min(config.sliding_window, context) * records.kv
    return csa + hca + window


def block_bytes(config: ModelConfig, records: RecordBytes) -> int:
    """One block of the paged pool: 128 tokens of all layers."""
    csa = num_layers(config, CSA) * (BLOCK_TOKENS // CSA) * (records.kv + records.index)
    return csa + num_layers(config, HCA) * (BLOCK_TOKENS // HCA) * records.kv


def pool_bytes(config: ModelConfig, num_tokens: int, records: RecordBytes) -> int:
    """The paged pool for `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_TOKENS) * block_bytes(config, records)


def state_bytes(config: ModelConfig, records: RecordBytes) -> int:
    """One sequence's fixed state: window rings and float32 compressor tails, with room to rewind 16 tokens."""
    windows = config.num_hidden_layers * (config.sliding_window + REWIND) * records.kv
    row = 2 * 4  # kv and score, float32
    csa = (2 * CSA + REWIND) * 2 * (config.head_dim + config.index_head_dim) * row
    hca = (HCA + REWIND) * config.head_dim * row
    return windows + num_layers(config, CSA) * csa + num_layers(config, HCA) * hca
