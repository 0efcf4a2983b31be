"""Quantisation inside training: the forward pass sees the weights that an export will hold. Report section 3.4.

    float32 master --quantise, decode--> the exported value      gradient --straight through--> the master

Routed experts go through FP4 (1x32), other matrices through FP8 (128x128), what is stored as bfloat16 through that; so
a model evaluates to the same number before and after its export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold import quant
from wavefold.model import Transformer
from wavefold.model.parameters import Linear

QUANTIZE = {"fp4": quant.quantize_fp4, "fp8": quant.quantize_fp8}


class StraightThrough(torch.autograd.Function):
    """quantise and decode; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, form: str, dtype: torch.dtype) -> Tensor:
        return quant.dequantize(*QUANTIZE[form](weight), dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].float(), None, None


class Masters:
    """A model's float32 parameters, which are trained, and how each is stored in an export."""

    def __init__(self, model: Transformer):
        self.model = model
        self.forms: dict[str, str] = {}
        official = dict(Transformer(model.config).named_parameters())
        for prefix, module in model.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                full = f"{prefix}.{name}" if prefix else name
                if isinstance(module, Linear):
                    self.forms[full] = module.form
                elif official[full].dtype.is_floating_point:
                    self.forms[full] = "bf16" if official[full].dtype == torch.bfloat16 else "fp32"

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained: everything of floating point, by name."""
        return {name: p for name, p in self.model.named_parameters() if name in self.forms}

    def values(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Each parameter as the forward pass sees it, connected to its master; matrices decoded to `dtype`."""
        return {name: self._value(p, self.forms[name], dtype) for name, p in self.parameters().items()}

    def _value(self, parameter: Tensor, form: str, dtype: torch.dtype) -> Tensor:
        if form in QUANTIZE:
            return StraightThrough.apply(parameter, form, dtype)
        return parameter.to(torch.bfloat16) if form == "bf16" else parameter

    def export(self) -> dict[str, Tensor]:
        """The tensors of an official checkpoint: packed codes and scales, bfloat16, float32, tables."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            form = self.forms.get(name)
            if form in QUANTIZE:
                weight, scale = QUANTIZE[form](parameter.detach())
                tensors[name], tensors[name.removesuffix("weight") + "scale"] = weight, scale
            else:
                tensors[name] = parameter.detach().to(torch.bfloat16 if form == "bf16" else parameter.dtype)
        return tensors
