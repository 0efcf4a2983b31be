"""One expert: SwiGLU with clamped inputs. Its meaning: `ops/reference/expert.py`."""

from __future__ import annotations

from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.flops import count
from wavefold.ops.linear import linear
from wavefold.ops.native import swiglu
from wavefold.ops.reference import expert as reference
from wavefold.quant import Weight


def expert(
    x: Tensor, w1: Weight, w2: Weight, w3: Weight, route: Tensor | None, limit: float, arithmetic: Arithmetic
) -> Tensor:
    """x [n, hidden] -> [n, hidden] in x's dtype; w1 gate, w2 down, w3 up.

    `route` [n, 1] float32: the tokens' routing weights, applied before w2 (None: 1).
    """
    count("swiglu", 8 * (x.numel() // x.shape[-1]) * w1.shape[0])  # three clamps, a sigmoid of three, two products
    if not arithmetic.released and kernels_train(x, w1.codes, *(() if route is None else (route,))):
        inner = swiglu.swiglu(linear(x, w1, arithmetic), linear(x, w3, arithmetic), route, limit)
        return linear(inner, w2, arithmetic)
    return reference.expert(x, w1, w2, w3, route, limit, arithmetic, linear)
