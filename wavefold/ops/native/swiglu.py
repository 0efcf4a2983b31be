"""SwiGLU in training, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, pointer, require, runtime


def swiglu(gate: Tensor, up: Tensor, route: Tensor | None, limit: float) -> Tensor:
    """gate, up bfloat16 [n, inter], route [n, 1] float32 or None -> silu(min(gate, limit)) clamp(up) route."""
    return _Swiglu.apply(gate, up, route, limit)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, route: Tensor | None, limit: float) -> Tensor:
        gate, up, route = bf16(gate), bf16(up), None if route is None else floats(route)
        if gate.dim() != 2 or gate.shape != up.shape or (route is not None and route.shape != (len(gate), 1)):
            shape = "none" if route is None else list(route.shape)
            raise ValueError(f"gate {list(gate.shape)}, up {list(up.shape)} and route {shape} do not fit")
        inner = torch.empty_like(gate)
        pointers = gate.data_ptr(), up.data_ptr(), pointer(route)
        check(require().wf_swiglu(runtime(), *pointers, *gate.shape, limit, inner.data_ptr()))
        ctx.save_for_backward(gate, up, route)
        ctx.limit = limit
        return inner

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, route = ctx.saved_tensors
        grad = bf16(grads[0])
        results = torch.empty_like(gate), torch.empty_like(up), None if route is None else torch.empty_like(route)
        pointers = gate.data_ptr(), up.data_ptr(), pointer(route), grad.data_ptr()
        to = (pointer(t) for t in results)
        check(require().wf_swiglu_grad(runtime(), *pointers, *gate.shape, ctx.limit, *to))
        return *results, None
