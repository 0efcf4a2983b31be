"""Muon: momentum made orthogonal, for matrices. Report section 2.4.

    M <- mu M + G;   O = orthogonalize(mu M + G) * sqrt(max(n, m)) * rms;   W <- (1 - lr decay) W - lr O

The rescaling gives every update the same root mean square, `rms`, so the learning rates of AdamW apply. Every logically
independent matrix is orthogonalized by itself: those of each expert, and each group of the grouped output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.train.newton_schulz import COEFFICIENTS, orthogonalize_

Cut = Callable[[Tensor, Tensor], Tensor]
"""(parameter, a tensor like it) -> another part of the same tensor."""


def _same(parameter: Tensor, tensor: Tensor) -> Tensor:
    return tensor


class Muon(torch.optim.Optimizer):
    """Updates parameters [n, m]. `parts` of a group: each parameter is that many matrices, one above the other.

    A parameter without a gradient (an expert that no token chose) stays as it is, and so does its momentum. If each
    process has some rows of a parameter, `whole` turns them into the whole matrix, and `share` turns it back. Products
    are computed in `dtype`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 0.0, momentum: float = 0.95, weight_decay: float = 0.1,
        rms: float = 0.18, whole: Cut | None = None, share: Cut | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ):  # fmt: skip
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rms": rms, "parts": 1})
        self._whole, self._share, self._dtype = whole or _same, share or _same, dtype
        self._sharded = whole is not None or share is not None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"a parameter of shape {list(parameter.shape)} is not allowed; expected a matrix")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            natively, others = [], []
            for parameter in parameters:
                updates = self._native_updates(parameter, group)
                natively += updates
                others += [] if updates else [parameter]
            ops.muon_(natively, COEFFICIENTS, group["momentum"])
            self._update(others, group)

    def _native_updates(self, parameter: nn.Parameter, group: dict[str, Any]) -> list[ops.MuonUpdate]:
        """Returns the updates of a parameter's matrices for the CPU kernels, or none if they cannot make them."""
        grad, momentum = parameter.grad, self.state[parameter]["momentum"]
        assert grad is not None
        if self._sharded or self._dtype != torch.bfloat16:
            return []
        if not ops.kernels_orthogonalize(parameter, momentum, grad):
            return []
        keep, parts = 1 - group["lr"] * group["weight_decay"], group["parts"]
        matrices = zip(parameter.detach().chunk(parts), momentum.chunk(parts), grad.chunk(parts), strict=True)
        return [ops.MuonUpdate(w, m, g, keep, _rate(w, group)) for w, m, g in matrices]

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not parameters:
            return
        aheads = self._look_ahead(parameters, group["momentum"])
        updates = [self._whole(p, ahead) for p, ahead in zip(parameters, aheads, strict=True)]
        parts = [update.chunk(group["parts"]) for update in updates]
        orthogonalize_([part for matrices in parts for part in matrices], self._dtype)
        for parameter, update, matrices in zip(parameters, updates, parts, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(self._share(parameter, update), alpha=_rate(matrices[0], group))

    def _look_ahead(self, parameters: list[nn.Parameter], mu: float) -> list[Tensor]:
        """Moves the momenta. Returns mu M + G of each parameter, in new tensors."""
        grads: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(momenta, mu)
        torch._foreach_add_(momenta, grads)
        return list(torch._foreach_add(grads, momenta, alpha=mu))


def _rate(matrix: Tensor, group: dict[str, Any]) -> float:
    """Returns the factor that gives an orthogonal matrix the update's root mean square, times the learning rate."""
    return float(group["lr"] * group["rms"] * max(matrix.shape) ** 0.5)
