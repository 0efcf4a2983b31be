"""The new tokens of one pass: several sequences' runs, one after another, each with its view of the past."""

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
from wavefold.ops import Table

Position = TypeVar("Position", int, Tensor)


def num_visible(positions: Position, ratio: int) -> Position:
    """Entries that the query at each position sees: those whose block of `ratio` tokens it has reached the end of."""
    return (positions + 1) // ratio


@dataclass(frozen=True)
class Segment:
    """One sequence's run: rows `rows` of the packed tokens, at positions view.start .. view.end.

    `choices`: entries chosen [n, k] by (layer, position of the first of n queries), for later layers that use them too.
    """

    rows: slice
    view: View
    choices: dict[tuple[int, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What every layer needs to know of a pass besides the activations. `tokens` [n] int64, packed.

    `training` is there when gradients are wanted of what a pass leaves out otherwise: the indexer's, the balance's.
    """

    tokens: Tensor
    segments: tuple[Segment, ...]
    config: ModelConfig
    training: TrainingPass | None = None

    @classmethod
    def of(cls, config: ModelConfig, tokens: Tensor, views: Seq[View], training: TrainingPass | None = None) -> Batch:
        """Pack `tokens` [n]: the runs of `views`, in that order."""
        segments, row = [], 0
        for view in views:
            segments.append(Segment(slice(row, row + view.length), view))
            row += view.length
        assert row == len(tokens), (row, len(tokens))
        return cls(tokens, tuple(segments), config, training)

    @functools.cached_property
    def positions(self) -> Tensor:
        """The tokens' positions in their sequences, int64 [n]."""
        runs = (segment.view for segment in self.segments)
        return torch.cat([torch.arange(view.start, view.end, device=self.tokens.device) for view in runs])

    @functools.cached_property
    def frequencies(self) -> dict[bool, Tensor]:
        """Of the rotary tables, by whether a layer compresses."""
        return {c: ops.rope_frequencies(self.config, c, self.tokens.device) for c in (False, True)}

    @functools.cached_property
    def rope(self) -> dict[bool, Table]:
        """The tokens' rotary tables, by whether a layer compresses."""
        return {c: ops.rope_table(self.positions, f) for c, f in self.frequencies.items()}

    def table(self, compressed: bool) -> Table:
        """The rotary table of the tokens, for a layer that compresses or one that does not."""
        return self.rope[compressed]

    def entry_table(self, first: int, end: int, ratio: int) -> Table:
        """The rotary table of compressed entries first .. end: each stands where its own block begins."""
        positions = torch.arange(first, end, device=self.tokens.device) * ratio
        return ops.rope_table(positions, self.frequencies[True])
