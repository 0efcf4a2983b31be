"""What a model saw when it made a token: a record of one row, layer by layer. `answer.py` makes JSON of it.

A mass is a share of attention, averaged over heads: window, entries and sink of a layer sum to 1.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from wavefold.config import LayerSpec


class EntriesSeen(NamedTuple):
    """`num_complete` entries were there. `mass` float32 [k] is of the `chosen` ones int64 [k], best `scores` first.

    Without an indexer there is no choice: `mass` [num_complete] is of all entries.
    """

    num_complete: int
    mass: Tensor
    chosen: Tensor | None = None
    scores: Tensor | None = None


class LayerSeen(NamedTuple):
    """One layer. `window`: masses float32 [w] of the last w tokens; experts int64 [k] and their weights float32 [k].

    The weights sum to the model's `routed_scaling_factor`.
    """

    spec: LayerSpec
    window: Tensor
    entries: EntriesSeen | None
    sink: float
    experts: Tensor
    weights: Tensor

    def first(self, position: int) -> int:
        """The token of the window's first mass."""
        return position + 1 - len(self.window)


class Guess(NamedTuple):
    """MTP's guess of the token after the next. `accepted`: True if the text goes on so; None: it ends before."""

    token: int
    probability: float
    accepted: bool | None


class Seen(NamedTuple):
    """A row: the token at `position`, which made the one after it. `top`: likeliest next tokens, and probabilities.

    `next_probability`: of the token that follows in the text, if any. `num_blocks` of the cache hold the text up to
    here, and the first `hit_tokens` tokens were in the prefix cache.
    """

    position: int
    layers: tuple[LayerSeen, ...]
    top: tuple[tuple[int, float], ...]
    next_probability: float | None
    guess: Guess | None
    num_blocks: int
    hit_tokens: int


def tokens_of(spec: LayerSpec, entry: int) -> range:
    """The tokens that an entry of a layer is made from. With overlap they are those of the entry before, too."""
    first = entry - 1 if spec.overlap and entry else entry
    return range(first * spec.ratio, (entry + 1) * spec.ratio)
