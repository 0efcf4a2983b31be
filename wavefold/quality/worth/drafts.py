"""Guesses of the MTP module that are right, on held-out code that is gone on with greedily.

A guess counts if it was tried: those before it were right. Depth is the same in every step, whatever it is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from wavefold.cache import BLOCK_TOKENS
from wavefold.chat import Prompt
from wavefold.engine import Answer, Runner, Sampling
from wavefold.engine.batch import run_all
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.drafting import Drafter
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Text
from wavefold.engine.request import Request
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.model import Transformer
from wavefold.quality.part import Result, Unit
from wavefold.quality.settings import BYTES_A_TOKEN
from wavefold.quality.statistics import Figure, figure_of
from wavefold.quality.subject import Subject
from wavefold.quality.worth.asked import Measure, digest_of

DEPTH, NEW_TOKENS, WIDTH = 1, 128, 16


class Fixed(Speculation):
    """Always the same depth."""

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0,
        behind_s: float = 0.0,
    ) -> int:  # fmt: skip
        return self.most


class Counted(MTPDrafts):
    """MTP drafts; counts those of each request and depth that were tried, and that were right."""

    def __init__(self, model: Transformer):
        super().__init__(model)
        self.tried: Counter[tuple[Hashable, int]] = Counter()
        self.right: Counter[tuple[Hashable, int]] = Counter()

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        super().observe(text, streams, accepted, of)
        number = text.request.id
        self.tried.update((number, depth) for depth in range(1, min(accepted + 1, of) + 1))
        self.right.update((number, depth) for depth in range(1, accepted + 1))


def draft_counts(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, new: int, depth: int, width: int = WIDTH
) -> list[list[tuple[int, int]]]:  # fmt: skip
    """Returns (right, tried) of each prompt and depth, for answers of at most `new` tokens, `width` at a time."""
    counted = Counted(model)
    num_tokens = max(map(len, prompts)) + new + depth
    num_blocks = max(64, width * (num_tokens // BLOCK_TOKENS + 2))
    runner = Runner(model, num_blocks, width, draft_depth=depth, drafter=Drafter(depth, [counted], Fixed(depth)))
    resolved = sampling.resolved(GenerationDefaults(), model.config)
    run_all(runner, [
        Request(number, list(ids), new, sampling=Answer(Prompt(list(ids)), resolved))
        for number, ids in enumerate(prompts)
    ])  # fmt: skip
    return [
        [(counted.right[number, level], counted.tried[number, level]) for level in range(1, depth + 1)]
        for number in range(len(prompts))
    ]  # fmt: skip


class Accepted(Measure):
    """The share of guesses at depth 1 that are right. Cases are texts; their ends are gone on with."""

    name, title = "drafts", "MTP's guesses that are right, greedy, depth 1"

    def __init__(self, cases: Sequence[str]):
        self.cases = cases

    def problem(self, subject: Subject) -> str:
        return "" if subject.model.mtp else "the model has no MTP module"

    def units(self) -> list[Unit]:
        found = []
        for first in range(0, len(self.cases), WIDTH):
            cases = self.cases[first : first + WIDTH]
            key = f"{first:05}-{digest_of([DEPTH, NEW_TOKENS, cases])}"
            found.append(Unit(key, sum(map(len, cases)) // BYTES_A_TOKEN, NEW_TOKENS * len(cases), cases))
        return found

    def measure(self, subject: Subject, unit: Unit) -> Result:
        prompts = [subject.tokenizer.encode(text, bos=True) for text in unit.data]
        counts = draft_counts(subject.model, prompts, Sampling(temperature=0), NEW_TOKENS, DEPTH)
        return {"counts": [pair for (pair,) in counts]}

    def figure(self, results: Sequence[Result]) -> Figure | None:
        pairs = [(right, tried) for result in results for right, tried in result["counts"]]
        return figure_of(self.name, self.title, "", pairs, self.better)
