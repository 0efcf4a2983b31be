"""A trace of a model that runs, taken where its routers have chosen."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wavefold.experts.table import ExpertTable
from wavefold.experts.traces.trace import Trace, id_dtype


class Recorder:
    """Takes what `Transformer.tell_chosen` tells: `model.tell_chosen(recorder)`. One pass at a time.

    A pass that ended before its last layer leaves nothing. MTP layers are not recorded.
    """

    def __init__(self, table: ExpertTable):
        self._table, self._dtype = table, id_dtype(table.num_experts)
        self._passes: list[np.ndarray] = []
        self._layers: list[np.ndarray] = []
        """Ids [n, k] of the first layers of the pass that runs."""

    def __call__(self, layer: int, ids: Tensor) -> None:
        """Takes the ids [n, k] that a layer chose."""
        if layer == 0:
            self._layers = []
        if layer != len(self._layers) or layer >= self._table.num_main_layers:
            return
        self._layers.append(ids.cpu().numpy().astype(self._dtype))
        if len(self._layers) == self._table.num_main_layers:
            self._passes.append(np.stack(self._layers, 1))
            self._layers = []

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self._passes))

    def trace(self) -> Trace:
        """Returns all complete passes so far. Raises ValueError where there is none."""
        if not self._passes:
            raise ValueError("no pass was recorded; expected one prompt at least")
        rows = np.array([len(chosen) for chosen in self._passes], np.int32)
        largest = int(self._table.nbytes().sum((2, 3)).max())
        return Trace(rows, np.concatenate(self._passes), self._table.num_experts, largest)
