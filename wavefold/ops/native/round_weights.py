"""Weights as a format holds them, back in bfloat16: what the forward pass of training with quantization sees."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wavefold.ops.native.library import check, floats, require, runtime
from wavefold.ops.native.linear import FORMS

NO_SCALE = 255


class RoundingStruct(ctypes.Structure):
    """wf_rounding."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("form", ctypes.c_int32),
        ("out", ctypes.c_void_p),
        ("least", ctypes.c_int32),
        ("largest", ctypes.c_int32),
    )


def round_weight(weight: Tensor, form: str) -> tuple[Tensor, int]:
    """weight float32 [out, in], form "fp4", "fp8" or "bf16" -> (its values in bfloat16, the spread of its scales).

    The spread is log2 of the largest scale over the least one of blocks with values; 0 for "bf16".
    """
    weight = floats(weight)
    out = torch.empty(weight.shape, dtype=torch.bfloat16)
    struct = RoundingStruct(weight.data_ptr(), *weight.shape, FORMS.index(form), out.data_ptr())
    check(require().wf_round_weights(runtime(), ctypes.byref(struct), 1))
    return out, 0 if struct.least == NO_SCALE else struct.largest - struct.least
