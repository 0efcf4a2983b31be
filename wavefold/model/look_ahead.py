"""Which experts a pass will need, told to a store that reads them: exactly for hashed layers, guessed for the others.

A layer's experts are guessed while the layer before is computed: its router is applied to that layer's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavefold import ops
from wavefold.model.router import Router

if TYPE_CHECKING:
    from wavefold.model.transformer import Transformer

MOST_ROWS = 64
"""More tokens need most experts anyway."""


class LookAhead:
    """Hints for one pass of a model's main layers."""

    def __init__(self, model: Transformer):
        self._store, self._arithmetic = model.experts.store, model.arithmetic
        self._routers: list[Router] = [block.ffn.gate for block in model.layers]  # type: ignore[union-attr, misc]

    @classmethod
    def of(cls, model: Transformer) -> LookAhead:
        return cls(model)

    def before(self, tokens: Tensor) -> None:
        """Tells of the experts of the first layer, if it is hashed, for the tokens int64 [n] of the pass."""
        self._tokens = tokens
        self._expect_hashed(0)

    def after_attention(self, number: int, h: Tensor) -> None:
        """Tells of the experts of the layer after `number`, whose experts' input is h [n, hidden]."""
        if number + 1 >= len(self._routers) or len(h) > MOST_ROWS:
            return
        router = self._routers[number + 1]
        if router.hashed:
            self._expect_hashed(number + 1)
        elif self._store.expects(router.layer):
            scores = ops.router_scores(h, router.weight, self._arithmetic)
            self._expect(router, ops.choose_experts(scores, router.bias, router.topk))

    def _expect_hashed(self, number: int) -> None:
        router = self._routers[number]
        if router.hashed and len(self._tokens) <= MOST_ROWS:
            self._expect(router, router.tid2eid[self._tokens])

    def _expect(self, router: Router, ids: Tensor) -> None:
        self._store.expect(router.layer, torch.unique(ids).tolist())
