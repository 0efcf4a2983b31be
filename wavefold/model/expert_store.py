"""The one door to the routed experts' weights, wherever they are.

The model asks for the experts that a batch needs and gives them back; the store decides what is in memory. Weights are
handed out as they lie on disk: packed codes, scales and a format tag, never repacked.

    with store.view(layer, ids) as view:          pinned until the end of the block
        view[e].w1 -> (weight, scale)
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

from torch import Tensor

from wavefold import quant
from wavefold.ops import Arithmetic


def routed_expert(name: str) -> int | None:
    """The routed expert whose parameter, or module with its dot, this is by its name; None of anything else."""
    found = re.search(r"\.ffn\.experts\.(\d+)\.", name)
    return int(found[1]) if found else None


class ExpertWeights(NamedTuple):
    """One expert: w1 gate and w3 up [inter, hidden], w2 down [hidden, inter]; each (weight, scale or None)."""

    w1: tuple[Tensor, Tensor | None]
    w2: tuple[Tensor, Tensor | None]
    w3: tuple[Tensor, Tensor | None]

    @property
    def form(self) -> str:
        """fp4, fp8, bf16 or fp32: how the weights are stored."""
        return quant.FORMS[self.w1[0].dtype]


class ExpertView(Mapping[int, ExpertWeights]):
    """Some experts of a layer, held in memory until `release` (or the end of a `with` block)."""

    def __init__(self, store: ExpertStore, layer: int, experts: Mapping[int, ExpertWeights]):
        self._store, self._layer, self._experts = store, layer, experts

    def __getitem__(self, expert: int) -> ExpertWeights:
        return self._experts[expert]

    def __iter__(self) -> Iterator[int]:
        return iter(self._experts)

    def __len__(self) -> int:
        return len(self._experts)

    def release(self) -> None:
        """Give the experts back. Their tensors must not be used afterwards."""
        self._store._release(self._layer, tuple(self._experts))
        self._experts = {}

    def __enter__(self) -> ExpertView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ExpertStore(ABC):
    """Where routed experts come from. Layers are numbered as in the checkpoint, the MTP layer after the main ones."""

    @abstractmethod
    def view(self, layer: int, ids: Sequence[int]) -> ExpertView:
        """The experts `ids` (distinct) of a layer, pinned until released. May block while they are fetched."""

    def prefetch(self, layer: int, ids: Sequence[int]) -> None:  # noqa: B027  a hint: a store may ignore it
        """These experts will be asked for soon. Returns at once."""

    @abstractmethod
    def _release(self, layer: int, ids: Sequence[int]) -> None:
        """Unpin what `view` handed out."""


class RoutingExperts(ExpertStore):
    """A store that also computes: rows meet their experts elsewhere than in the model, on other ranks or in one
    kernel."""

    @abstractmethod
    def routed(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, limit: float, arithmetic: Arithmetic
    ) -> Tensor:
        """The sum of each row's experts: h [n, hidden], weights [n, k] float32, ids [n, k] -> [n, hidden]."""


class ResidentExperts(ExpertStore):
    """All experts are the model's own parameters, memory-mapped from the checkpoint or in memory."""

    def __init__(self, layers: Mapping[int, Callable[[int], ExpertWeights]]):
        self._layers = layers

    def view(self, layer: int, ids: Sequence[int]) -> ExpertView:
        weights_of = self._layers[layer]
        return ExpertView(self, layer, {expert: weights_of(expert) for expert in ids})

    def _release(self, layer: int, ids: Sequence[int]) -> None:
        pass
