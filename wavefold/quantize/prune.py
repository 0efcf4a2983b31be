"""Fewer experts: in each layer the ones that add the most to their tokens stay (REAP, Cerebras 2025).

The router loses the rows of the others. In a hashed layer a token's experts are fixed: a lost one is replaced by the
kept one whose router row is most like its own and which the token does not have yet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.config import ModelConfig
from wavefold.quantize.importance import Importance


def kept_experts(config: ModelConfig, importance: Importance, count: int) -> list[list[int]]:
    """Returns the `count` experts of each main layer that stay, in ascending order.

    Raises ValueError for a count below the experts of a token or above those that there are.
    """
    if not config.num_experts_per_tok <= count <= config.n_routed_experts:
        raise ValueError(
            f"{count} experts are not allowed; expected {config.num_experts_per_tok} (a token's experts) to "
            f"{config.n_routed_experts}"
        )
    layers = range(config.num_hidden_layers)
    return [
        importance.saliency(layer).argsort(descending=True, stable=True)[:count].sort()[0].tolist() for layer in layers
    ]


def rerouted(table: Tensor, gate: Tensor, kept: list[int]) -> Tensor:
    """Returns a hashed layer's table [vocab, k] over the kept experts, numbered anew; no token gets one twice.

    gate [experts, hidden]: the router's rows.
    """
    rows = torch.nn.functional.normalize(gate.float(), dim=1)
    similar = (rows @ rows[kept].T).argsort(dim=1, descending=True, stable=True)  # [experts, kept], as new numbers
    number = torch.full((len(gate),), -1)
    number[kept] = torch.arange(len(kept))
    new = number[table.long()]
    for column in range(table.shape[1]):
        lost = (new[:, column] < 0).nonzero()[:, 0]
        if not len(lost):
            continue
        ranked = similar[table[lost, column].long()]  # [lost, kept]
        taken = (ranked[:, :, None] == new[lost][:, None, :]).any(2)
        new[lost, column] = ranked.gather(1, taken.int().argmin(1, keepdim=True))[:, 0]
    return new
