"""Which experts a pass will need, told to a store that reads them: exactly for hashed layers, guessed for the others.

A layer's experts are guessed while the layer before is computed: its router is applied to that layer's input. A store
takes as many as it has reads for, in order, and may be told again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold import ops
from wavefold.experts import ExpertStore
from wavefold.model.router import Router
from wavefold.ops import Arithmetic


class LookAhead:
    """Hints for one pass of tokens int64 [n] through layers with these routers; none to a store that wants none."""

    def __init__(self, routers: Sequence[Router], store: ExpertStore, arithmetic: Arithmetic, tokens: Tensor):
        self._store, self._arithmetic, self._tokens = store, arithmetic, tokens
        self._routers = routers if store.wants_hints else ()
        self._ids: dict[int, list[int]] = {}
        """The experts of layers that were told of, by the layers' numbers."""

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
        if number not in self._ids:
            if router.hashed:
                ids = router.tid2eid[self._tokens]
            elif h is not None and self._store.expects(router.layer):
                scores = ops.router_scores(h, router.weight, self._arithmetic)
                ids = ops.choose_experts(scores, router.bias, router.topk)
            else:
                return
            self._ids[number] = torch.unique(ids).tolist()
        self._store.expect(router.layer, self._ids[number])
