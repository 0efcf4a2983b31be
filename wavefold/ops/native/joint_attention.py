"""Attention of whole sequences in training, forward and backward, all sequences of a batch in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, pointer, require, runtime

DIM_UNIT = 32
"""The kernels take head dims that are multiples of this."""


class JointStruct(ctypes.Structure):
    """wf_joint."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("kv", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
        ("sink", ctypes.c_void_p),
        ("chosen", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("ratio", ctypes.c_int64),
    )


def joint_attention(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int,
    lengths: Sequence[int], chosen: Sequence[Tensor | None] | None, mass: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """q [n, H, c], kv [n, c], entries [m, c] bfloat16 of sequences of `lengths`, sink [H] -> o [n, H, c].

    Also returns the mass [length, entries] float32 of each sequence; unless `mass` is True it has no rows. `chosen` has
    bool tensors of these shapes, or None where a sequence sees all of its entries. Raises ValueError for shapes that do
    not fit.
    """
    blocks = [length // ratio if ratio else 0 for length in lengths]
    shapes = [(length, count) for length, count in zip(lengths, blocks, strict=True)]
    flat = None if chosen is None or all(x is None for x in chosen) else _flat(chosen, shapes)
    o, masses = _JointAttention.apply(q, kv, entries, sink, (window, ratio, tuple(lengths)), flat, mass)
    if not mass:
        return o, [masses.view(0, count) for count in blocks]
    split = masses.split([length * count for length, count in shapes])
    return o, [fell.view(shape) for fell, shape in zip(split, shapes, strict=True)]


def _flat(chosen: Sequence[Tensor | None], shapes: Sequence[tuple[int, int]]) -> Tensor:
    whole = [torch.ones(shape, dtype=torch.bool) if x is None else x for x, shape in zip(chosen, shapes, strict=True)]
    if [tuple(x.shape) for x in whole] != list(shapes):
        raise ValueError(f"choices {[list(x.shape) for x in whole]} do not fit; expected {[list(x) for x in shapes]}")
    flat = torch.cat([x.flatten() for x in whole])
    if flat.dtype != torch.bool:
        raise ValueError(f"choices of {flat.dtype} do not fit; expected torch.bool")
    return flat


def _struct(operands: Sequence[Tensor], chosen: Tensor | None, window: int, ratio: int, lengths: Tensor) -> JointStruct:
    q, kv, entries, sink = operands
    pointers = (pointer(t) for t in (q, kv, entries if len(entries) else None, sink, chosen, lengths))
    return JointStruct(*pointers, len(lengths), *q.shape, window, ratio)


class _JointAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, sizes: Any, chosen: Tensor | None, mass: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype = sink.dtype
        q, kv, entries, sink = bf16(q), bf16(kv), bf16(entries), floats(sink)
        window, ratio, lengths = sizes
        n, heads, dim = q.shape
        blocks = [length // ratio if ratio > 0 else 0 for length in lengths]
        if kv.shape != (n, dim) or entries.shape != (sum(blocks), dim) or sink.shape != (heads,):
            raise ValueError(
                f"q {list(q.shape)}, kv {list(kv.shape)}, entries {list(entries.shape)} and sink {list(sink.shape)} do "
                f"not fit sequences of {list(lengths)} at a ratio of {ratio}"
            )
        ctx.sizes = window, ratio, torch.tensor(lengths)
        o, lse = torch.empty_like(q), torch.empty(n, heads, dtype=torch.float32)
        num_masses = sum(a * b for a, b in zip(lengths, blocks, strict=True)) if mass else 0
        masses = torch.empty(num_masses, dtype=torch.float32)
        struct = _struct((q, kv, entries, sink), chosen, *ctx.sizes)
        results = o.data_ptr(), lse.data_ptr(), masses.data_ptr() if mass else None
        check(require().wf_joint_attention(runtime(), ctypes.byref(struct), *results))
        ctx.save_for_backward(q, kv, entries, sink, chosen, lse)
        ctx.mark_non_differentiable(masses)
        return o, masses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *operands, chosen, lse = ctx.saved_tensors
        struct, grad_o = _struct(operands, chosen, *ctx.sizes), bf16(grads[0])
        results = [torch.empty_like(t) for t in operands[:3]]
        delta = torch.empty_like(lse)
        pointers = (pointer(t) for t in (lse, grad_o, *results, delta))
        check(require().wf_joint_attention_grad(runtime(), ctypes.byref(struct), *pointers))
        grad_sink = -(torch.exp(operands[3] - lse) * delta).sum(0).to(ctx.dtype)
        return *results, grad_sink, None, None, None
