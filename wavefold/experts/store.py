"""Access to the routed experts' weights, wherever they lie.

The model acquires the experts that a batch needs and releases them. The store decides which experts are in memory.
Weights keep their bytes from disk: packed codes, scales and a format, never repacked.

    with store.acquire(layer, ids) as view:          pinned until the end of the block
        view[e].w1 -> Weight
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavefold.experts.table import ABSENT, ExpertTable, number_of
from wavefold.quant import Weight
from wavefold.quant.format import SCALE_DTYPE


class ExpertWeights(NamedTuple):
    """One expert: w1 gate and w3 up [inter, hidden], w2 down [hidden, inter]."""

    w1: Weight
    w2: Weight
    w3: Weight

    @property
    def form(self) -> str:
        """The name of the stored format of w1."""
        return self.w1.format.name

    @property
    def is_here(self) -> bool:
        """True if there are bytes; False for shapes and dtypes only."""
        return not self.w1.codes.is_meta

    def map(self, function: Callable[[Tensor], Tensor]) -> ExpertWeights:
        """Returns the weights with `function` applied to each tensor."""
        return ExpertWeights(*(weight.map(function) for weight in self))


Opener = Callable[[int, int, torch.dtype, tuple[int, int]], Tensor]
"""Returns a tensor that lies in a file: of which matrix, which of `PARTS`, dtype, shape."""


def stored_weights(table: ExpertTable, layer: int, expert: int, opened: Opener) -> ExpertWeights:
    """Returns an expert's tensors by their places in a table: `opened`, or on meta where they lie in no file."""

    def tensor(matrix: int, part: int, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
        if table.file[layer, expert, matrix, part] == ABSENT:
            return torch.empty(shape, dtype=dtype, device="meta")
        return opened(matrix, part, dtype, shape)

    weights = []
    for matrix, size in enumerate(table.sizes):
        form = table.format(layer, expert, matrix)
        codes, shape = tensor(matrix, 0, form.dtype, form.codes_shape(*size)), form.scales_shape(*size)
        weights.append(Weight(form, size, codes, None if shape is None else tensor(matrix, 1, SCALE_DTYPE, shape)))
    return ExpertWeights(*weights)


class ExpertView(Mapping[int, ExpertWeights]):
    """Experts of a layer, pinned in memory until `close` (or the end of a `with` block)."""

    def __init__(self, store: ExpertStore, layer: int, experts: Mapping[int, ExpertWeights]):
        self._store, self._layer, self._experts = store, layer, experts

    def __getitem__(self, expert: int) -> ExpertWeights:
        return self._experts[expert]

    def __iter__(self) -> Iterator[int]:
        return iter(self._experts)

    def __len__(self) -> int:
        return len(self._experts)

    def close(self) -> None:
        """Releases the experts. Their tensors must not be used afterwards."""
        self._store._unpin(self._layer, tuple(self._experts))
        self._experts = {}

    def __enter__(self) -> ExpertView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ExpertStore(ABC):
    """Holds routed experts. Layers are numbered as in the checkpoint: main layers, then MTP layers."""

    table: ExpertTable
    """The places and formats of the experts."""
    _closed = False
    wants_hints = False
    """True if `expect` has an effect."""
    generation = 0
    """It changes whenever arrays from `structs` become invalid."""

    @abstractmethod
    def acquire(self, layer: int, ids: Sequence[int]) -> ExpertView:
        """Returns the experts `ids` (distinct) of a layer, pinned until the view is closed. May block on reads."""

    def groups(self, layer: int, ids: Sequence[int], in_order: bool = True) -> Iterator[ExpertView]:
        """Yields views that hold all of `ids` (distinct), each once, pinned until the next is asked for.

        In the order of `ids`; or those first that are here, the first view being empty if none is.
        """
        with self.acquire(layer, ids) as view:
            yield view

    def expect(self, layer: int, ids: Sequence[int]) -> None:  # noqa: B027  a hint: a store may ignore it
        """Announces that these experts will be acquired soon. Returns at once."""

    def expects(self, layer: int) -> bool:
        """True if hints for this layer have an effect at present."""
        return self.wants_hints

    def open_files(self) -> None:  # noqa: B027  a store may read when it is asked
        """Opens the files of all experts now, where the store keeps them open."""

    def structs(self, layer: int) -> np.ndarray | None:
        """Returns a layer's experts as an array of wf_expert [num_experts], or None unless all are in memory.

        The array is valid while `generation` stays the same.
        """
        return None

    @abstractmethod
    def stored(self, layer: int, expert: int) -> ExpertWeights:
        """Returns an expert's tensors for a walk over all experts: not pinned, on meta where they are not here."""

    @abstractmethod
    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Replaces an expert's tensors. The new tensors stay in memory."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes of the experts that can be acquired, wherever they lie."""

    @abstractmethod
    def close(self) -> None:
        """Gives all memory and files back. Nothing can be acquired afterwards."""

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Replaces every tensor that is here by `function` of it."""
        for layer in range(self.table.num_layers):
            for expert in range(self.table.num_experts):
                weights = self.stored(layer, expert)
                if weights.is_here:
                    self.put(layer, expert, weights.map(function))

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the store of the routed experts is closed; load the model again")

    def _replaced(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Writes the formats of an expert that was put into the table."""
        self.table.form[layer, expert] = [number_of(weight.format) for weight in weights]
        self.generation += 1

    def _bytes_with(self, weights: Mapping[tuple[int, int], ExpertWeights]) -> int:
        """Returns the bytes of the experts in files and of `weights`, which take their places."""
        here = self.table.file[..., 0] != ABSENT
        for place, others in weights.items():
            here[place] = others.is_here
        return int(self.table.nbytes()[here].sum())

    def _unpin(self, layer: int, ids: Sequence[int]) -> None:  # noqa: B027  a store that never evicts pins nothing
        """Releases the experts of a closed view."""
