"""Muon: momentum made orthogonal, for matrices. Report section 2.4.

    M <- mu M + G;   O = orthogonalize(mu M + G) * sqrt(max(n, m)) * rms;   W <- (1 - lr decay) W - lr O

The rescaling gives every update the same root mean square, `rms`, so the learning rates of AdamW apply. Every logically
independent matrix is orthogonalized by itself: those of each expert, and each group of the grouped output projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wavefold.train.newton_schulz import orthogonalize

Cut = Callable[[Tensor, Tensor], Tensor]
"""(parameter, a tensor like it) -> another part of the same tensor."""

BATCH_NUMBERS = 1 << 22
"""Largest number of values of equal matrices that are stacked: few calls, with bounded memory."""


class Muon(torch.optim.Optimizer):
    """Updates parameters [n, m]. `parts` of a group: each parameter is that many matrices, one above the other.

    A parameter without a gradient (an expert that no token chose) stays as it is, and so does its momentum. If each
    process has some rows of a parameter, `whole` turns them into the whole matrix, and `share` turns it back. Products
    are computed in `dtype`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 0.0, momentum: float = 0.95, weight_decay: float = 0.1,
        rms: float = 0.18, whole: Cut = lambda _, rows: rows, share: Cut = lambda _, matrix: matrix,
        dtype: torch.dtype = torch.bfloat16,
    ):  # fmt: skip
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rms": rms, "parts": 1})
        self._whole, self._share, self._dtype = whole, share, dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"a parameter of shape {list(parameter.shape)} is not allowed; expected a matrix")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum: Tensor = state["momentum"]
                momentum.mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad.add(momentum, alpha=group["momentum"])
                matrix = self._whole(parameter, ahead)
                alike[tuple(matrix.shape)].append((parameter, matrix.unflatten(0, (group["parts"], -1))))
            for shape, members in alike.items():
                most = max(1, BATCH_NUMBERS // (shape[0] * shape[1]))
                for first in range(0, len(members), most):
                    self._update(members[first : first + most], group)

    def _update(self, members: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        stacked = torch.stack([ahead for _, ahead in members])
        scale = group["lr"] * group["rms"] * max(stacked.shape[-2:]) ** 0.5
        for (parameter, _), update in zip(members, orthogonalize(stacked, self._dtype), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(self._share(parameter, update.flatten(0, 1)), alpha=scale)
