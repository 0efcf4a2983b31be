"""Modules that only hold parameters, under the names and in the dtypes of the official checkpoint.

A quantized weight keeps its bytes from disk (packed codes and scales) and is decoded where it is used. The dtype of the
loaded tensor decides how it is read: any weight may also be bfloat16 or float32 without a scale. Of a GGUF file, it may
be rows of blocks, in a format that the module names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.ops import Arithmetic
from wavefold.quant import FORMATS, Format, Weight
from wavefold.quant.format import SCALE_DTYPE


def empty(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter without storage: the shape and dtype of an official tensor."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


class Linear(nn.Module):
    """`weight` [out, in] and, when stored as "fp8" or "fp4", its `scale`. `form`: the format in the official file."""

    weight: nn.Parameter
    scale: nn.Parameter | None
    packed: Format | None = None
    """The format of the blocks that `weight` is in; None: its dtype tells the format."""

    def __init__(self, in_features: int, out_features: int, form: str):
        super().__init__()
        self.in_features, self.out_features, self.form = in_features, out_features, form
        official = FORMATS[form]
        self.weight = empty(*official.codes_shape(out_features, in_features), dtype=official.dtype)
        scale_shape = official.scales_shape(out_features, in_features)
        scale = None if scale_shape is None else empty(*scale_shape, dtype=SCALE_DTYPE)
        self.register_parameter("scale", scale)

    def forward(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        return ops.linear(x, self.stored, arithmetic)

    @property
    def stored(self) -> Weight:
        """The matrix as it is stored."""
        return Weight.of(self.weight, self.scale, self.packed)


class Norm(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = empty(dim, dtype=torch.bfloat16)

    def forward(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps, arithmetic)

    def rotated(self, x: Tensor, table: ops.Table, arithmetic: Arithmetic) -> Tensor:
        """Returns the norm's result, rotated to the table's positions."""
        return ops.rms_norm_rotated(x, self.weight, self.eps, table, arithmetic)
