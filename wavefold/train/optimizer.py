"""Assigns parameters to Muon or AdamW, and moves the biases that balance load. Report sections 2.4 and 4.2.

    Muon    matrices: projections, experts (each by itself), routers, compressors, the mHC's mixing matrices
    AdamW   embedding, prediction head, norms, mHC biases and scales, sinks, positional biases; adapters

Weight decay acts on matrices, embedding and head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wavefold.model import Transformer
from wavefold.train.lora import is_adapter
from wavefold.train.muon import Muon
from wavefold.train.recipe import Recipe
from wavefold.train.sharding import Shards

BETAS = (0.9, 0.95)
EPSILON = 1e-20
"""Epsilon of AdamW, from the report. It is so small that the size of an update ignores the size of the gradient."""


class Optimizer:
    """The two optimizers of a run as one."""

    def __init__(self, shards: Shards, model: Transformer, recipe: Recipe):
        """`shards`: the trained parameters, as rows of this process."""
        self.parameters = parameters = shards.trained
        self._matrices = matrices = {
            name for name, p in parameters.items() if recipe.optimizer == "muon" and is_matrix(name, p)
        }
        decayed = [p for name, p in parameters.items() if name not in matrices and decays(name, p)]
        rest = [p for name, p in parameters.items() if name not in matrices and not decays(name, p)]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=BETAS, eps=EPSILON, fused=True
        )
        self.muon = None
        if matrices:
            groups = [
                {"params": [parameters[n] for n in matrices_of], "parts": parts}
                for parts, matrices_of in _by_parts(sorted(matrices), model.config.o_groups).items()
            ]
            self.muon = Muon(
                groups,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                whole=shards.whole if shards.group.size > 1 else None,
                share=shards.share if shards.group.size > 1 else None,
                dtype=model.arithmetic.dtype,
            )
        self._all: list[torch.optim.Optimizer] = [o for o in (self.adamw, self.muon) if o is not None]

    def step(self, lr: float) -> None:
        """Updates all parameters that have a gradient. The others stay as they are."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the moments, by "{parameter}.{moment}"."""
        names = {id(p): name for name, p in self.parameters.items()}
        return {
            f"{names[id(parameter)]}.{key}": value
            for optimizer in self._all
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }

    def empty(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Returns empty tensors for those moments in `names` whose parameters are here, to be filled for `restore`."""
        owners = {name: self.parameters.get(name.rpartition(".")[0]) for name in names}
        return {
            name: torch.empty(()) if name.endswith(".step") else torch.empty_like(owner)
            for name, owner in owners.items()
            if owner is not None
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Replaces all moments by `tensors`, as the method `tensors` returns them."""
        for optimizer in self._all:
            optimizer.state.clear()
        for name, value in tensors.items():
            owner, _, moment = name.rpartition(".")
            optimizer = self.muon if self.muon is not None and owner in self._matrices else self.adamw
            optimizer.state[self.parameters[owner]][moment] = value


def is_matrix(name: str, parameter: Tensor) -> bool:
    """True if Muon updates the parameter."""
    return parameter.dim() == 2 and not name.endswith(("ape", "embed.weight", "head.weight")) and not is_adapter(name)


def decays(name: str, parameter: Tensor) -> bool:
    """True if weight decay of AdamW acts on it: matrices, embedding, head; not mHC or positional biases."""
    return parameter.dim() == 2 and not name.endswith(("ape", "_fn")) and not is_adapter(name)


def _by_parts(names: list[str], groups: int) -> dict[int, list[str]]:
    """Returns matrices by their number of independent parts. The grouped output projection has one per group."""
    parts: dict[int, list[str]] = {}
    for name in names:
        parts.setdefault(groups if name.endswith("wo_a.weight") else 1, []).append(name)
    return parts


@torch.no_grad()
def move_biases(model: Transformer, loads: Mapping[int, Tensor], speed: float) -> float:
    """Moves the bias of each learned router against the load of its experts.

    loads: tokens of each expert [experts], by layer. Returns the largest load over the mean load (1: balanced).
    """
    worst = 1.0
    blocks = [*model.layers, *model.mtp]
    for layer, load in loads.items():
        bias: nn.Parameter = blocks[layer].ffn.gate.bias  # type: ignore[union-attr, assignment]
        bias.add_(torch.sign(load.mean() - load), alpha=speed)
        worst = max(worst, float(load.max() / load.mean().clamp(min=1)))
    return worst
