"""Rows to the experts and back, forward and backward: gathered by expert, and summed by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, pointer, require, runtime


def take_rows(x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
    """x bfloat16 [n, d], tokens [n * k] int64 -> x[tokens]; places [n, k]: the rows of each token in the result.

    Raises ValueError for arguments that do not fit.
    """
    return _TakeRows.apply(x, tokens, places)


def sum_rows(rows: Tensor, tokens: Tensor, places: Tensor, added: Tensor) -> Tensor:
    """rows bfloat16 [n * k, d] as `take_rows` orders them, added [n, d] -> sums by token, with `added`: [n, d]."""
    return _SumRows.apply(rows, tokens, places, added)


def _combine(rows: Tensor, index: Tensor, added: Tensor | None) -> Tensor:
    """rows [m, d], index [n, j] -> sums over j of rows[index[n, j]], plus `added`: [n, d]."""
    rows, index, added = bf16(rows), index.contiguous(), None if added is None else bf16(added)
    count, dim = len(index), rows.shape[-1]
    if rows.dim() != 2 or index.dtype != torch.int64 or (added is not None and added.shape != (count, dim)):
        raise ValueError(f"rows {list(rows.shape)} and an index {list(index.shape)} of {index.dtype} do not fit")
    out = rows.new_empty(count, dim)
    arguments = runtime(), rows.data_ptr(), len(rows), index.data_ptr(), count, index.numel() // max(1, count), dim
    check(require().wf_combine_rows(*arguments, pointer(added), out.data_ptr()))
    return out


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return _combine(x, tokens, None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _combine(grads[0], ctx.saved_tensors[0], None), None, None


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, tokens: Tensor, places: Tensor, added: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return _combine(rows, places, added)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _combine(grads[0], ctx.saved_tensors[0], None), None, None, grads[0]
