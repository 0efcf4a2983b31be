"""The new tokens of one pass: a span of each sequence, one after another, with its view of the past."""

from __future__ import annotations

import functools
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import View
from wavefold.config import ModelConfig
from wavefold.model.training_pass import TrainingPass
from wavefold.model.watcher import Watcher
from wavefold.ops import Adapter, Arithmetic, Table

Position = TypeVar("Position", int, Tensor)


def num_visible(positions: Position, ratio: int) -> Position:
    """Returns the number of entries that a query at each position sees: the complete blocks of `ratio` tokens."""
    return (positions + 1) // ratio


@dataclass(frozen=True)
class Span:
    """One sequence's tokens in a pass: rows `rows` of the packed tokens, at positions view.start .. view.end.

    `choices`: entries chosen [n, k] by (layer, position of the first of n queries), for later layers that use them too.
    """

    rows: slice
    view: View
    choices: dict[tuple[int, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The input of a pass besides the activations, for all layers. `tokens` [n] int64, packed.

    `training` is set if the losses of the indexer and of the balance of experts are wanted; `watcher`, if somebody is
    to be told what the layers do.
    """

    tokens: Tensor
    spans: tuple[Span, ...]
    config: ModelConfig
    training: TrainingPass | None = None
    watcher: Watcher | None = None

    @classmethod
    def of(
        cls, config: ModelConfig, tokens: Tensor, views: Seq[View], training: TrainingPass | None = None,
        watcher: Watcher | None = None,
    ) -> Batch:  # fmt: skip
        """Returns the batch of `tokens` [n]: the spans of `views`, in that order."""
        spans, row = [], 0
        for view in views:
            spans.append(Span(slice(row, row + view.length), view))
            row += view.length
        assert row == len(tokens), (row, len(tokens))
        return cls(tokens, tuple(spans), config, training, watcher)

    @functools.cached_property
    def adapters(self) -> list[tuple[slice, Adapter]]:
        """The rows that have an adapter, and which: neighbours of the same adapter together, ascending."""
        rows: list[tuple[slice, Adapter]] = []
        for span in self.spans:
            adapter = span.view.adapter
            if adapter is None:
                continue
            if rows and rows[-1][1] is adapter and rows[-1][0].stop == span.rows.start:
                rows[-1] = slice(rows[-1][0].start, span.rows.stop), adapter
            else:
                rows.append((span.rows, adapter))
        return rows

    def adapt(self, name: str, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Returns y [n, out], the matrix `name` (layers.3.attn.wq_a) times x [n, in], plus what the adapters add."""
        parts = [(rows, adapter.parts[name]) for rows, adapter in self.adapters if name in adapter.parts]
        if parts:
            y = y.clone()
        for rows, part in parts:
            y[rows] = ops.add_low_rank(y[rows], x[rows], part, arithmetic)
        return y

    def adapt_rows(self, name: str, rows: Tensor, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> Tensor:
        """`adapt` for some rows of the batch: rows int64 [m], x [m, in], y [m, out]."""
        for place, adapter in self.adapters:
            part = adapter.parts.get(name)
            found = ((rows >= place.start) & (rows < place.stop)).nonzero().flatten()
            if part is not None and len(found):
                y = y.index_copy(0, found, ops.add_low_rank(y[found], x[found], part, arithmetic))
        return y

    @functools.cached_property
    def positions(self) -> Tensor:
        """The tokens' positions in their sequences, int64 [n]."""
        views = (span.view for span in self.spans)
        return torch.cat([torch.arange(view.start, view.end, device=self.tokens.device) for view in views])

    @functools.cached_property
    def frequencies(self) -> dict[bool, Tensor]:
        """Frequencies of the rotary tables: for layers that compress (True) and for others (False)."""
        return {c: ops.rope_frequencies(self.config, c, self.tokens.device) for c in (False, True)}

    @functools.cached_property
    def rope(self) -> dict[bool, Table]:
        """The tokens' rotary tables: for layers that compress (True) and for others (False)."""
        return {c: ops.rope_table(self.positions, f) for c, f in self.frequencies.items()}

    def table(self, compressed: bool) -> Table:
        """Returns the tokens' rotary table for a layer that compresses, or for one that does not."""
        return self.rope[compressed]

    def entry_table(self, first: int, end: int, ratio: int) -> Table:
        """Returns the rotary table of entries first .. end. An entry's position is that of its block's first token."""
        positions = torch.arange(first, end, device=self.tokens.device) * ratio
        return ops.rope_table(positions, self.frequencies[True])
