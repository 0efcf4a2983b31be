"""One expert: SwiGLU with clamped inputs. Report sections 2.1 and 4.2.3."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.reference.linear import linear
from wavefold.quant import Weight


def expert(
    x: Tensor,
    w1: Weight,
    w2: Weight,
    w3: Weight,
    route: Tensor | None,
    limit: float,
    arithmetic: Arithmetic,
    linear: Callable[[Tensor, Weight, Arithmetic], Tensor] = linear,
) -> Tensor:
    """x [n, hidden] -> [n, hidden] in x's dtype; w1 gate, w2 down, w3 up.

    `route` [n, 1] float32: the tokens' routing weights, applied before w2 as in the released code (None: 1).
    `linear` is the op that multiplies.
    """
    gate = linear(x, w1, arithmetic).to(arithmetic.accumulate).clamp(max=limit)
    up = linear(x, w3, arithmetic).to(arithmetic.accumulate).clamp(-limit, limit)
    inner = F.silu(gate) * up
    if route is not None:
        inner = inner * route
    return linear(inner.to(x.dtype), w2, arithmetic)
