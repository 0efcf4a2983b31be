"""The nine measures of a run, by the numbers of their cases. The same corpora, counts and seed give the same ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from wavefold.data.corpus import Corpus, Document
from wavefold.data.exercises.exercise import Exercise
from wavefold.data.exercises.functions import functions
from wavefold.data.exercises.rewrites import annotate, docstring, rename
from wavefold.data.instruct import instruct_chats
from wavefold.quality.loops import PROMPT_BYTES
from wavefold.quality.worth import measures, sources
from wavefold.quality.worth.asked import Measure
from wavefold.quality.worth.bits import MOST_BYTES, Bits, bounded
from wavefold.quality.worth.drafts import Accepted
from wavefold.quality.worth.sources import drawn, sources_of

NAMES = ("held_out", "packages", "completions", "next_lines", "holes", "rewrites", "stops", "loops", "drafts")
DRAFT_BYTES = 768
KINDS = {"rename": rename, "annotate": annotate, "docstring": docstring}
"""Of rewrites. Exercises of errors are left out: their answers have a form that the question does not say."""


@dataclass(frozen=True)
class Counts:
    """Cases of each measure; `draws`: answers to each completion; `num_bytes`: of each held-out corpus, at most."""

    completions: int = 200
    draws: int = 5
    next_lines: int = 2000
    holes: int = 500
    rewrites: int = 300
    stops: int = 200
    loops: int = 500
    drafts: int = 64
    num_bytes: int = MOST_BYTES

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) < 1:
                raise ValueError(f"{field.name} = {value} is not allowed; expected 1 or more")

    @classmethod
    def of(cls, num: int) -> Counts:
        """`num` cases of each measure, and 10 kB of each corpus: a look, no measurement."""
        names = ("completions", "next_lines", "holes", "rewrites", "stops", "loops", "drafts")
        return replace(cls(num_bytes=10_000), **dict.fromkeys(names, num))


def planned(
    corpus: Corpus, packages: Corpus | None, counts: Counts, seed: int, names: Sequence[str] = NAMES
) -> list[Measure]:  # fmt: skip
    """Returns the measures that `names` asks for, in the order of `NAMES`; "packages" is left out without a corpus.

    Raises ValueError for other names, and for a corpus that holds nothing to make cases of.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"measures = {', '.join(unknown)} are not allowed; expected some of {', '.join(NAMES)}")
    found = [measure for name in NAMES if name in names for measure in _of(name, corpus, packages, counts, seed)]
    if empty := [measure.name for measure in found if not measure.units()]:
        raise ValueError(f"{corpus.name}: its held-out files hold no case for {', '.join(empty)}; expected more files")
    return found


def _of(name: str, corpus: Corpus, packages: Corpus | None, counts: Counts, seed: int) -> list[Measure]:
    if name == "held_out":
        return [Bits(name, corpus.name, bounded(corpus.held_out, counts.num_bytes, seed))]
    if name == "packages":
        return [] if packages is None else [
            Bits(name, packages.name, bounded(packages.held_out, counts.num_bytes, seed))
        ]  # fmt: skip
    if name == "stops":
        chats = instruct_chats(corpus.held_out, seed)[: counts.stops]
        return [measures.Stops([chat[0]["content"] for chat in chats], seed)]
    if name == "rewrites":
        return [measures.Rewrites(_by_turns(rewrites(corpus.held_out, seed), counts.rewrites, seed))]
    files = sources_of(corpus.held_out)
    if name == "completions":
        heads = drawn([case for file in files for case in sources.heads(file)], counts.completions, seed)
        return [measures.Completions(heads, seed, counts.draws)]
    if name == "next_lines":
        lines = [case for file in files for case in sources.next_lines(file)]
        return [measures.NextLines(drawn(lines, counts.next_lines, seed, in_order=True))]
    if name == "holes":
        kinds = {"line": [case for file in files for case in sources.line_holes(file)],
                 "span": [case for file in files for case in sources.span_holes(file, seed)]}  # fmt: skip
        return [measures.Holes(_by_turns(kinds, counts.holes, seed))]
    size = PROMPT_BYTES if name == "loops" else DRAFT_BYTES
    texts = [text for file in files for text in sources.places(file, size)]
    if name == "loops":
        return [measures.Loops(drawn(texts, counts.loops, seed), seed)]
    return [Accepted(drawn(texts, counts.drafts, seed))]


def rewrites(documents: Sequence[Document], seed: int) -> dict[str, list[Exercise]]:
    """Returns by kind the rewrites that the documents' functions allow; each depends on its function and the seed."""
    asked: dict[str, list[Exercise]] = {kind: [] for kind in KINDS}
    for function in functions(documents):
        for kind, maker in KINDS.items():
            exercise = maker(function, random.Random(f"{seed} {kind} {function.place}"))
            if exercise is not None:
                asked[kind].append(exercise)
    return asked


def _by_turns(kinds: Mapping[str, Sequence[sources.Case]], num: int, seed: int) -> list[sources.Case]:
    """Returns `num` cases, of each kind in turn as long as there are some, drawn from each by itself."""
    turns = itertools.zip_longest(*(drawn(cases, num, f"{seed} {kind}") for kind, cases in kinds.items()))
    return [case for turn in turns for case in turn if case is not None][:num]
