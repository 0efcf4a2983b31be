"""Compression of whole sequences in training, forward and backward."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, require, runtime


class CompressionStruct(ctypes.Structure):
    """wf_compression."""

    _fields_ = (
        ("kv", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
        ("ape", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("ratio", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("overlap", ctypes.c_int32),
    )


def compress_sequences(
    kv: Tensor, score: Tensor, ape: Tensor, ratio: int, overlap: bool, lengths: Sequence[int]
) -> Tensor:  # fmt: skip
    """kv, score bfloat16 [n, width] of sequences of `lengths`, ape [ratio, width] -> their entries [m, dim], m > 0."""
    return _CompressSequences.apply(kv, score, ape, ratio, overlap, tuple(lengths))


class _CompressSequences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kv: Tensor, score: Tensor, ape: Tensor, ratio: int, overlap: bool, lengths: tuple[int, ...]
    ) -> Tensor:
        ctx.dtype = ape.dtype
        kv, score, ape = bf16(kv), bf16(score), floats(ape)
        width = kv.shape[-1]
        if kv.dim() != 2 or kv.shape != score.shape or ape.shape != (ratio, width) or (overlap and width % 2):
            raise ValueError(
                f"kv {list(kv.shape)}, score {list(score.shape)}, ape {list(ape.shape)} do not fit a ratio of {ratio}"
            )
        ctx.sizes = ratio, width // 2 if overlap else width, overlap, torch.tensor(lengths)
        entries = sum(length // ratio for length in lengths)
        out = kv.new_empty(entries, ctx.sizes[1])
        struct = _struct(kv, score, ape, *ctx.sizes)
        check(require().wf_compress(runtime(), ctypes.byref(struct), out.data_ptr()))
        ctx.save_for_backward(kv, score, ape)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        struct, grad = _struct(*saved, *ctx.sizes), bf16(grads[0])
        results = [torch.empty_like(t) for t in saved]
        to = (t.data_ptr() for t in results)
        check(require().wf_compress_grad(runtime(), ctypes.byref(struct), grad.data_ptr(), *to))
        return results[0], results[1], results[2].to(ctx.dtype), None, None, None


def _struct(
    kv: Tensor, score: Tensor, ape: Tensor, ratio: int, dim: int, overlap: bool, lengths: Tensor
) -> CompressionStruct:  # fmt: skip
    pointers = (t.data_ptr() for t in (kv, score, ape, lengths))
    return CompressionStruct(*pointers, len(lengths), len(kv), ratio, dim, overlap)
