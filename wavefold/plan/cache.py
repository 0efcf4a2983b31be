"""Bytes of a sequence's cache at a context length. Report section 3.5.1; record sizes as deployed.

KV entry     nope FP8 codes, rope bfloat16, one UE8M0 scale for 64 codes, padded to 8      584 bytes at 448 + 64
index key    FP4 codes, one UE8M0 scale for 32                                              68 bytes at 128
"""

from __future__ import annotations

from dataclasses import dataclass

from wavefold.config import LayerSpec, ModelConfig

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
    window = config.num_hidden_layers * min(config.sliding_window, context) * records.kv
    return _entry_bytes(config, context, records) + window


def block_bytes(config: ModelConfig, records: RecordBytes) -> int:
    """One block of the paged pool: 128 tokens of all layers."""
    return _entry_bytes(config, BLOCK_TOKENS, records)


def _entry_bytes(config: ModelConfig, num_tokens: int, records: RecordBytes) -> int:
    """Entries and index keys of `num_tokens` tokens, in all layers that make some."""
    return sum(
        (num_tokens // spec.ratio) * (records.kv + (records.index if spec.has_keys else 0))
        for spec in config.main_layers
        if spec.has_compressor
    )


def pool_bytes(config: ModelConfig, num_tokens: int, records: RecordBytes) -> int:
    """The paged pool for `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_TOKENS) * block_bytes(config, records)


def state_bytes(config: ModelConfig, records: RecordBytes) -> int:
    """One sequence's fixed state: window rings and float32 compressor tails, with room to rewind 16 tokens."""
    windows = config.num_hidden_layers * (config.sliding_window + REWIND) * records.kv
    return windows + sum(_tail_bytes(config, spec) for spec in config.main_layers if spec.has_compressor)


def _tail_bytes(config: ModelConfig, spec: LayerSpec) -> int:
    """A layer's compressor tails: an overlapped compressor reads two blocks back, at twice the width."""
    blocks = 2 if spec.overlap else 1
    width = blocks * (config.head_dim + (config.index_head_dim if spec.has_keys else 0))
    return (blocks * spec.ratio + REWIND) * width * 2 * 4  # kv and score, float32
