"""`inside_answer`: a request to look inside -> what the model saw, ready for JSON (docs/inside.md has its form)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from wavefold.chat import Tokenizer
from wavefold.chat.tokenizer import StreamDecoder
from wavefold.inside.read import Progress, look
from wavefold.inside.record import EntriesSeen, LayerSeen, Seen
from wavefold.inside.request import MOST_TOKENS, asked

if TYPE_CHECKING:
    from wavefold.llm import LLM

DIGITS = 6
"""Significant digits of a number."""


def inside_answer(
    llm: LLM, request: Mapping[str, object], on_read: Progress | None = None, most_tokens: int = MOST_TOKENS,
    adapter: str | None = None,
) -> dict[str, object]:  # fmt: skip
    """Returns what the model saw when it made the token after the request's `position`, in values of JSON.

    `adapter`: the name of a loaded adapter, through which the text is read; None: the model alone.
    Any thread may call it; requests that run beside it have the same tokens as without. `on_read(done, of)` counts
    tokens read, between passes; an error that it raises ends the look. Raises ValueError that names what is wrong with
    the request, and where `look` does.
    """
    ids, position = asked(request, llm.tokenizer, llm.model.config, most_tokens)
    return values_of(look(llm, ids, position, on_read, adapter), ids, llm.tokenizer)


def values_of(seen: Seen, ids: Sequence[int], tokenizer: Tokenizer | None) -> dict[str, object]:
    """Returns a record of the text `ids` in values of JSON."""

    def text(token: int) -> str:
        return tokenizer.decode([token]) if tokenizer is not None else ""

    position, following = seen.position, seen.position + 1
    guess = seen.guess
    return {
        "position": position,
        "token": text(ids[position]),
        "tokens": [{"id": token, "text": piece} for token, piece in zip(ids, pieces(ids, tokenizer), strict=True)],
        "next": None if seen.next_probability is None else {
            "id": ids[following], "text": text(ids[following]), "probability": rounded(seen.next_probability),
        },
        "top": [{"id": token, "text": text(token), "probability": rounded(p)} for token, p in seen.top],
        "layers": [layer_values(layer, position) for layer in seen.layers],
        "mtp": None if guess is None else {
            "guess": guess.token, "text": text(guess.token), "probability": rounded(guess.probability),
            "accepted": guess.accepted,
        },
        "cache": {"blocks": seen.num_blocks, "prefix_hit_tokens": seen.hit_tokens},
    }  # fmt: skip


def pieces(ids: Sequence[int], tokenizer: Tokenizer | None) -> list[str]:
    """Returns the characters that each token completes. Joined they are the text."""
    if tokenizer is None:
        return [""] * len(ids)
    decoder = StreamDecoder(tokenizer)
    texts = [decoder.push(token) for token in ids]
    texts[-1] += decoder.finish()
    return texts


def layer_values(layer: LayerSeen, position: int) -> dict[str, object]:
    """Returns a layer in values of JSON."""
    experts = zip(layer.experts.tolist(), numbers(layer.weights), strict=True)
    return {
        "layer": layer.spec.layer,
        "kind": layer.spec.part,
        "window": {"first": layer.first(position), "mass": numbers(layer.window)},
        "entries": None if layer.entries is None else _entries(layer, layer.entries),
        "sink_mass": rounded(layer.sink),
        "experts": [{"expert": expert, "weight": weight} for expert, weight in experts],
        "hashed": layer.spec.hashed,
    }


def _entries(layer: LayerSeen, entries: EntriesSeen) -> dict[str, object]:
    return {
        "ratio": layer.spec.ratio,
        "overlap": layer.spec.overlap,
        "count": entries.num_complete,
        "chosen": None if entries.chosen is None else entries.chosen.tolist(),
        "scores": None if entries.scores is None else numbers(entries.scores),
        "mass": numbers(entries.mass),
    }


def numbers(values: Tensor) -> list[float]:
    return [rounded(value) for value in values.tolist()]


def rounded(value: float) -> float:
    """Returns a number of `DIGITS` significant digits. JSON has no others: NaN and infinities are an error."""
    if not math.isfinite(value):
        raise ValueError(f"a number of the record is {value}: the model computes what is not finite")
    return float(f"{value:.{DIGITS}g}")
