"""Attention over a window and cached entries, and the indexer's choice among them, for bfloat16 activations."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wavefold.ops.native.library import check, require, runtime
from wavefold.ops.native.rows import RowSource


def attend(
    q: Tensor,
    sink: Tensor,
    first: int,
    window: int,
    past: RowSource,
    fresh: Tensor,
    entries: RowSource | None = None,
    ratio: int = 0,
    chosen: Tensor | None = None,
) -> Tensor:
    """Attention of consecutive tokens of one sequence, the first at position `first`: bfloat16 [n, heads, c].

    q bfloat16 [n, heads, c]; sink float32 [heads]. Each query sees the last `window` tokens, including its own: rows of
    `past` before `first`, then `fresh` bfloat16 [n, c]. It also sees the (position + 1) // ratio complete entries; with
    `chosen` int32 [n, k], ended by -1, the chosen ones of them. Raises ValueError for arguments that do not fit.
    """
    q, fresh, sink = q.contiguous(), fresh.contiguous(), sink.detach().float().contiguous()
    n, heads, dim = q.shape
    if (q.dtype, fresh.dtype) != (torch.bfloat16, torch.bfloat16) or fresh.shape != (n, dim) or len(sink) != heads:
        raise ValueError(
            f"q {list(q.shape)} of {q.dtype}, kv {list(fresh.shape)} of {fresh.dtype} and sink {list(sink.shape)} do "
            "not fit; expected bfloat16 [n, heads, c] and [n, c], and [heads]"
        )
    if past.dim != dim:
        raise ValueError(f"cached rows of {past.dim} values do not fit heads of {dim}")
    if chosen is not None:
        chosen = chosen.to(torch.int32).contiguous()
        if len(chosen) != n:
            raise ValueError(f"{len(chosen)} rows of chosen entries do not fit {n} queries")
        if chosen.shape[1] == 0:  # no entry is chosen; a null `chosen` would mean all
            entries = chosen = None
    out = torch.empty_like(q)
    check(
        require().wf_attend(
            runtime(), n, heads, q.data_ptr(), sink.data_ptr(), first, window, ctypes.byref(past.struct()),
            fresh.data_ptr(), None if entries is None else ctypes.byref(entries.struct()),
            0 if entries is None else ratio, None if chosen is None else chosen.data_ptr(),
            0 if chosen is None else chosen.shape[1], out.data_ptr(),
        )
    )  # fmt: skip
    return out


def index_select(q: Tensor, weights: Tensor, keys: RowSource, first: int, ratio: int, k: int, released: bool) -> Tensor:
    """The k best of the (position + 1) // ratio entries that each query sees: int32 [n, k], best first, then -1.

    q bfloat16 [n, heads, dim], weights bfloat16 [n, heads]. `released`: dots, their products with the weights and the
    sum over heads are rounded to bfloat16. Ties go to the earlier entry. Raises ValueError for shapes that do not fit.
    """
    q, weights = q.contiguous(), weights.contiguous()
    n, heads, dim = q.shape
    if (q.dtype, weights.dtype) != (torch.bfloat16, torch.bfloat16) or weights.shape != (n, heads) or keys.dim != dim:
        raise ValueError(
            f"q {list(q.shape)} of {q.dtype}, weights {list(weights.shape)} of {weights.dtype} and keys of {keys.dim} "
            "values do not fit; expected bfloat16 [n, heads, dim] and [n, heads]"
        )
    out = torch.empty(n, max(0, k), dtype=torch.int32)
    check(
        require().wf_index(
            runtime(), n, heads, q.data_ptr(), weights.data_ptr(), ctypes.byref(keys.struct()), first, ratio, k,
            released, out.data_ptr(),
        )
    )  # fmt: skip
    return out
