"""Who is told what each layer of a pass did: how `wavefold/inside` sees a row of the model's own pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from wavefold.ops.native import PassBuffers


class Watcher(ABC):
    """Is told, layer by layer, within the pass whose `Batch.watcher` it is. It must change no tensor that it is given.

    In plain torch a layer tells `attended`, then `routed`. The CPU kernels compute both halves in one call, and tell
    `computed`. The views then hold the new tokens' entries.
    """

    @abstractmethod
    def attended(self, layer: int, h: Tensor, out: Tensor) -> None:
        """Attention made `out` [n, hidden] of its normalised input `h` [n, hidden]."""

    @abstractmethod
    def routed(self, layer: int, weights: Tensor, ids: Tensor) -> None:
        """The router gave each token its experts: weights [n, k] float32, ids [n, k] int64."""

    @abstractmethod
    def computed(self, layer: int, buffers: PassBuffers) -> None:
        """The kernels have attended and chosen experts, which are not computed yet.

        `streams` are those before the layer, `mixed` those after attention; `route` and `chosen` are the experts'.
        """
