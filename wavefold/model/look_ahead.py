"""Which experts a pass will need, told to a store that reads them: exactly for hashed layers, guessed for the others.

A layer's experts are guessed while the layer before is computed: its router is applied to that layer's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold import ops
from wavefold.experts import ExpertStore
from wavefold.model.router import Router
from wavefold.ops import Arithmetic

MOST_ROWS = 64
"""More tokens need most experts anyway."""


class LookAhead:
    """Hints for one pass of tokens int64 [n] through layers with these routers.

    A pass of many tokens gives none, nor does one whose store wants none.
    """

    def __init__(self, routers: Sequence[Router], store: ExpertStore, arithmetic: Arithmetic, tokens: Tensor):
        self._store, self._arithmetic, self._tokens = store, arithmetic, tokens
        self._routers = routers if store.wants_hints and len(tokens) <= MOST_ROWS else ()

    def begin(self) -> None:
        """Tells of the experts of all hashed layers: the disk has something to do from the start."""
        for number, router in enumerate(self._routers):
            if router.hashed:
                self.before(number, None)

    def before(self, number: int, h: Tensor | None) -> None:
        """Tells of the experts of layer `number`; h [n, hidden] is the input of the experts before it, if any are."""
        if number >= len(self._routers):
            return
        router = self._routers[number]
        if router.hashed:
            ids = router.tid2eid[self._tokens]
        elif h is not None and self._store.expects(router.layer):
            ids = ops.choose_experts(ops.router_scores(h, router.weight, self._arithmetic), router.bias, router.topk)
        else:
            return
        self._store.expect(router.layer, torch.unique(ids).tolist())
