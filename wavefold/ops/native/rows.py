"""Cached rows as the library reads them: records in paged storage, in a ring, or values in a tensor."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

ROW_FORMS = ("bf16", "kv", "index")
"""The forms in the library's order: WF_ROWS_BF16, WF_ROWS_KV, WF_ROWS_INDEX. Their content: cache/record.py."""


class RowsStruct(ctypes.Structure):
    """wf_rows."""

    _fields_ = (
        ("form", ctypes.c_int32),
        ("dim", ctypes.c_int64),
        ("rope_dim", ctypes.c_int64),
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("table", ctypes.c_void_p),
        ("table_blocks", ctypes.c_int64),
        ("in_block", ctypes.c_int64),
        ("stride", ctypes.c_int64),
    )


@dataclass(frozen=True)
class RowSource:
    """Rows of `dim` values, stored in `form`.

    With a table, row n is `storage[table[n // in_block], n % in_block]`. Storage is [blocks, in_block, width], whose
    blocks need not be adjacent, or [rows, width] with `in_block` rows to a block. Without a table, row n is
    `storage[n % rows]` of contiguous storage [rows, width].
    """

    form: str
    dim: int
    rope_dim: int
    storage: Tensor
    table: Tensor | None = None
    in_block: int = 1

    def struct(self) -> RowsStruct:
        """Returns the structure for a call. It must outlive the call. Raises ValueError for unreadable rows."""
        storage, table = self.storage, self.table
        if storage.dim() == 2 and table is not None:
            whole = len(storage) // self.in_block
            storage = storage[: whole * self.in_block].unflatten(0, (whole, self.in_block))
        rows = storage[0] if storage.dim() == 3 and len(storage) else storage
        if storage.device.type != "cpu" or not rows.is_contiguous():
            raise ValueError(f"rows on {storage.device}; the CPU kernels read contiguous rows on the CPU")
        if self.form == "bf16" and (storage.dtype != torch.bfloat16 or storage.shape[-1] != self.dim):
            raise ValueError(f"rows of {storage.dtype} and width {storage.shape[-1]}; expected bfloat16 [{self.dim}]")
        if table is not None and (table.dtype != torch.int64 or not table.is_contiguous()):
            raise ValueError(f"a block table of {table.dtype}; expected contiguous torch.int64")
        stride = 0 if table is None else storage.stride(0) * storage.element_size()
        behind = 0 if table is None else max(len(storage) - 1, 0) * stride
        return RowsStruct(
            ROW_FORMS.index(self.form), self.dim, self.rope_dim, storage.data_ptr(), behind + rows.nbytes,
            None if table is None else table.data_ptr(), 0 if table is None else len(table), self.in_block, stride,
        )  # fmt: skip
