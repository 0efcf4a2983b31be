"""A record as rows of text, for a terminal: a row a layer."""

from __future__ import annotations

from collections.abc import Sequence

from wavefold.chat import Tokenizer
from wavefold.inside.figure import parts
from wavefold.inside.record import LayerSeen, Seen, tokens_of

MOST_SHOWN = 3
"""Window tokens and entries of a layer that are shown, the heaviest first."""
MOST_CHARACTERS = 24
"""Of an entry's text."""
COLUMNS = ("layer", "window", "heaviest in it", "entries", "heaviest of them", "sink", "experts")


def rows_of(seen: Seen, ids: Sequence[int], tokenizer: Tokenizer | None) -> list[tuple[str, ...]]:
    """Returns a row for each layer, with the fields of `COLUMNS`."""
    return [_row(layer, seen.position, ids, tokenizer) for layer in seen.layers]


def shown(ids: Sequence[int], tokenizer: Tokenizer | None) -> str:
    """A text of tokens in one short line; their ids where there is no tokenizer."""
    text = repr(tokenizer.decode(ids)) if tokenizer is not None else " ".join(map(str, ids))
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def _row(layer: LayerSeen, position: int, ids: Sequence[int], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    spec, entries = layer.spec, layer.entries
    window, of_entries, sink = parts(layer)
    best = layer.window.topk(min(MOST_SHOWN, len(layer.window)))
    first = layer.first(position)
    tokens = [
        f"{shown([ids[first + place]], tokenizer)} {share(mass)}"
        for place, mass in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    heaviest, count = [], ""
    if entries is not None:
        count = f"{share(of_entries)} of {len(entries.mass):,}"
        count += "" if entries.chosen is None else f" chosen from {entries.num_complete:,}"
        best = entries.mass.topk(min(MOST_SHOWN, len(entries.mass)))
        for place, mass in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            entry = place if entries.chosen is None else int(entries.chosen[place])
            part = tokens_of(spec, entry)
            heaviest.append(f"{entry} {shown(ids[part.start : part.stop], tokenizer)} {share(mass)}")
    weights = zip(layer.experts.tolist(), layer.weights.tolist(), strict=True)
    experts = " ".join(f"{expert}:{weight:.2f}" for expert, weight in weights)
    return (
        f"{spec.layer} {spec.part}", share(window), "\n".join(tokens), count, "\n".join(heaviest), share(sink),
        experts + (" (by token)" if spec.hashed else ""),
    )  # fmt: skip


def share(value: float) -> str:
    return f"{value:.1%}"
