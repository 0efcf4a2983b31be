"""AdamW with warm-up and cosine decay, and the bias that balances the experts' load. Spec of the recipe: report 4.2."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wavefold.model import Transformer
from wavefold.model.router import Router
from wavefold.train.group import Group

BALANCE_SPEED = 0.003
"""How far a router's bias moves in a step towards the experts that had too little load."""


def learning_rate(step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to 0 at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Matrices decay; norms, sinks, biases, positional biases and mHC parameters do not."""
    decayed = [
        p for name, p in parameters.items() if p.dim() == 2 and not name.endswith(("ape", "_fn", "embed.weight"))
    ]
    chosen = {id(p) for p in decayed}
    rest = [p for p in parameters.values() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-10, fused=True)


class LoadBalance:
    """Counts the tokens that each learned router sends to each expert, and moves the routers' biases against it."""

    def __init__(self, model: Transformer):
        self._routers = [m for m in model.modules() if isinstance(m, Router) and not m.hashed]
        self._loads: dict[Router, Tensor] = {}
        for router in self._routers:
            router.register_forward_hook(self._count)

    def _count(self, router: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        assert isinstance(router, Router)
        load = torch.bincount(output[1].flatten(), minlength=len(router.weight)).float()
        self._loads[router] = self._loads[router] + load if router in self._loads else load

    @torch.no_grad()
    def step(self, group: Group) -> float:
        """Move the biases after a training step; returns the largest load over the mean one, 1 being balance."""
        worst = 1.0
        loads = [self._loads.get(router, torch.zeros(len(router.weight))) for router in self._routers]
        group.sum_(loads)
        for router, load in zip(self._routers, loads, strict=True):
            router.bias.add_(torch.sign(load.mean() - load), alpha=BALANCE_SPEED)
            worst = max(worst, float(load.max() / load.mean()))
        self._loads.clear()
        return worst

    def forget(self) -> None:
        """Drop what evaluation counted."""
        self._loads.clear()
