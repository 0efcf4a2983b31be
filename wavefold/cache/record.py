"""The layout of one cached row: a parameter of the pool, unknown to readers of rows. Report sections 2.3.4 and 3.4.

    plain      values as they are, in one dtype
    KV         | nope e4m3 codes | rope bfloat16 values | an e8m0 scale for 64 codes | 0 up to a multiple of 8 |
               448 + 128 + 7 + 1 = 584 bytes at head_dim 512
    index      | dim / 2 bytes of e2m1 codes, low nibble first | an e8m0 scale for 32 codes |
               64 + 4 = 68 bytes at index_head_dim 128

Released arithmetic applies these roundings before it caches a row: packing the row again changes no value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from wavefold import quant
from wavefold.config import ModelConfig

KV_BLOCK = 64
INDEX_BLOCK = 32
KV_ALIGNMENT = 8


@dataclass(frozen=True)
class Record(ABC):
    """A row of `dim` activations as `width` elements of `dtype`."""

    dim: int

    @property
    @abstractmethod
    def width(self) -> int: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @property
    @abstractmethod
    def form(self) -> str:
        """Its name in the CPU kernels (csrc/wavefold.h, wf_rows); for records that they do not read, the dtype."""

    @abstractmethod
    def encode(self, rows: Tensor) -> Tensor:
        """Activations [..., dim] as they are stored [..., width]."""

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """Stored rows [..., width] as activations [..., dim], in a dtype that holds them exactly."""

    @property
    def num_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.dtype.itemsize

    def empty(self, *shape: int, device: torch.device) -> Tensor:
        """Returns storage [*shape, width] with undefined content."""
        return torch.empty(*shape, self.width, dtype=self.dtype, device=device)

    def poison(self, stored: Tensor) -> None:
        """Overwrites in place, so that every value decodes to NaN."""
        stored.view(torch.uint8).fill_(0xFF)


@dataclass(frozen=True)
class PlainRecord(Record):
    """Values kept in `kept_dtype`: lossless for activations of that dtype."""

    kept_dtype: torch.dtype

    @property
    def width(self) -> int:
        return self.dim

    @property
    def dtype(self) -> torch.dtype:
        return self.kept_dtype

    @property
    def form(self) -> str:
        return "bf16" if self.kept_dtype == torch.bfloat16 else str(self.kept_dtype)

    def encode(self, rows: Tensor) -> Tensor:
        return rows.to(self.kept_dtype)

    def decode(self, stored: Tensor) -> Tensor:
        return stored


@dataclass(frozen=True)
class PackedRecord(Record):
    """Bytes: codes, then unquantized values, then scales."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8


@dataclass(frozen=True)
class KVRecord(PackedRecord):
    """A KV row: FP8 for the values without position, bfloat16 for the last `rope_dim`."""

    rope_dim: int

    @property
    def form(self) -> str:
        return "kv"

    @property
    def nope_dim(self) -> int:
        return self.dim - self.rope_dim

    @property
    def _scales_at(self) -> int:
        return self.nope_dim + 2 * self.rope_dim

    @property
    def _end(self) -> int:
        return self._scales_at + -(-self.nope_dim // KV_BLOCK)

    @property
    def width(self) -> int:
        return -(-self._end // KV_ALIGNMENT) * KV_ALIGNMENT

    def encode(self, rows: Tensor) -> Tensor:
        stored = torch.zeros(*rows.shape[:-1], self.width, dtype=torch.uint8, device=rows.device)
        if self.nope_dim:
            codes, scale = quant.act_quant(rows[..., : self.nope_dim], KV_BLOCK)
            stored[..., : self.nope_dim] = codes.view(torch.uint8)
            stored[..., self._scales_at : self._end] = scale.view(torch.uint8)
        rope = rows[..., self.nope_dim :].to(torch.bfloat16).contiguous()
        stored[..., self.nope_dim : self._scales_at] = rope.view(torch.uint8)
        return stored

    def decode(self, stored: Tensor) -> Tensor:
        """Returns bfloat16 rows."""
        rows = torch.empty(*stored.shape[:-1], self.dim, dtype=torch.bfloat16, device=stored.device)
        if self.nope_dim:
            codes = stored[..., : self.nope_dim].view(torch.float8_e4m3fn)
            scale = stored[..., self._scales_at : self._end]
            rows[..., : self.nope_dim] = quant.dequantize_rows(codes, scale, KV_BLOCK)
        rope = stored[..., self.nope_dim : self._scales_at].clone()  # one row alone may lie at an odd byte
        rows[..., self.nope_dim :] = rope.view(torch.bfloat16)
        return rows


@dataclass(frozen=True)
class IndexRecord(PackedRecord):
    """An index key: FP4."""

    @property
    def form(self) -> str:
        return "index"

    @property
    def width(self) -> int:
        return self.dim // 2 + -(-self.dim // INDEX_BLOCK)

    def encode(self, rows: Tensor) -> Tensor:
        codes, scale = quant.fp4_quant(rows, INDEX_BLOCK)
        return torch.cat((codes.view(torch.uint8), scale.view(torch.uint8)), -1)

    def decode(self, stored: Tensor) -> Tensor:
        """Returns bfloat16 rows."""
        codes, scale = stored.split((self.dim // 2, self.width - self.dim // 2), -1)
        return quant.dequantize_rows(codes, scale, INDEX_BLOCK)


@dataclass(frozen=True)
class Records:
    """A model's two records: one of KV rows (windows, CSA and HCA entries), one of index keys."""

    kv: Record
    index: Record


def packed_records(config: ModelConfig) -> Records:
    """FP8 and bfloat16 KV rows, FP4 index keys: the cache of released arithmetic, 7 to 10 % of DeepSeek-V3.2's."""
    return Records(KVRecord(config.head_dim, config.qk_rope_head_dim), IndexRecord(config.index_head_dim))


def plain_records(config: ModelConfig, dtype: torch.dtype) -> Records:
    """Rows that keep activations of `dtype` unchanged: the cache of exact arithmetic."""
    return Records(PlainRecord(config.head_dim, dtype), PlainRecord(config.index_head_dim, dtype))
