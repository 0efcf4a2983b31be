"""Tokens with drafts are distributed as without: chi-square of a Markov chain against its exact probabilities.

    python -m tests.engine.distribution --samples 2000000        (make distribution)

The chain stands for a model: the logits after token t are row t of a table. All else is the engine's own: spans, rows,
verdicts, random numbers. Counted are pairs of neighbours, whose exact probabilities `sampler.distribution` gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from tests.engine.progress import progress
from wavefold.chat import Prompt
from wavefold.engine import Answer
from wavefold.engine.choosing import bits_of
from wavefold.engine.lookup import Lookup
from wavefold.engine.proposer import Proposer
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.rows import SpanRows, answer_of
from wavefold.engine.sampler import Filters, distribution
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.verdict import verdicts

VOCAB = 12
TOGETHER = 200
"""Requests in a step."""
LENGTH = 60
"""Tokens of an answer."""
DEPTH = 3
TABLE = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)) * 2


class Likeliest(Proposer):
    """Guesses the most likely token each time, as a good drafter does."""

    def propose(self, tokens: Sequence[int], depth: int) -> Sequence[int]:
        guesses: list[int] = []
        for _ in range(depth):
            guesses.append(int(TABLE[guesses[-1] if guesses else tokens[-1]].argmax()))
        return guesses

    def observe(self, accepted: int, of: int) -> None:
        pass


class Dice(Likeliest):
    """Guesses any token: mostly wrong."""

    def __init__(self) -> None:
        self._random = Random(1)

    def propose(self, tokens: Sequence[int], depth: int) -> Sequence[int]:
        return [self._random.randrange(VOCAB) for _ in range(self._random.randint(0, depth))]


class Ban:
    """A grammar that forbids two tokens after each token, as `GrammarState` tells it."""

    error, is_complete, only_token = "", False, None

    def __init__(self, last: int):
        self._last = last

    def advance(self, token: int) -> None:
        self._last = token

    def masks(self, drafts: Sequence[int]) -> list[Tensor | None]:
        masks: list[Tensor | None] = []
        for token, after in pairwise((self._last, *drafts, -1)):
            masks.append(bits_of(allowed_after(token), VOCAB))
            if after not in allowed_after(token):
                break
        return masks + [None] * (1 + len(drafts) - len(masks))


def allowed_after(token: int) -> list[int]:
    return [other for other in range(VOCAB) if (other - token) % VOCAB not in (1, 5)]


def logits_of(is_masked: bool) -> Tensor:
    """The chain's logits, row by row, with what a grammar forbids at -inf."""
    logits = TABLE.clone()
    for token in range(VOCAB) if is_masked else ():
        logits[token, [other for other in range(VOCAB) if other not in allowed_after(token)]] = -torch.inf
    return logits


PROPOSERS: dict[str, Callable[[], Proposer] | None] = {
    "none": None, "look-up": Lookup, "likeliest": Likeliest, "dice": Dice,
}  # fmt: skip
Setting = tuple[float, float, bool]
"""Temperature, top_p, and whether a grammar forbids tokens."""
SETTINGS: list[Setting] = [
    (temperature, top_p, is_masked)
    for temperature in (0.5, 1.0, 1.5) for top_p, is_masked in ((1.0, False), (0.9, False), (1.0, True))
]  # fmt: skip


class Count(NamedTuple):
    """Counts of pairs [VOCAB, VOCAB], and how many drafts of all were accepted."""

    pairs: Tensor
    accepted: float


def run(proposer: Callable[[], Proposer] | None, setting: Setting, samples: int, seed: int = 0) -> Count:
    """Draws `samples` tokens, or a few more."""
    temperature, top_p, is_masked = setting
    sampling = ResolvedSampling(temperature, top_p, 0, LENGTH, fit_window=False, eos_ids=())
    pairs, numbers = torch.zeros(VOCAB * VOCAB, dtype=torch.int64), iter(range(10**9))
    drafts_right = drafts_all = drawn = 0
    live: list[tuple[Request, Proposer | None]] = []
    while drawn < samples:
        live = [one for one in live if len(one[0].output) < LENGTH]
        while len(live) < TOGETHER:
            number = next(numbers)
            grammar = Ban(number % VOCAB) if is_masked else None
            answer = Answer(Prompt([number % VOCAB]), replace(sampling, seed=seed * 10**9 + number), grammar=grammar)
            live.append((Request(number, answer.prompt.ids, LENGTH, sampling=answer), proposer and proposer()))
        spans, rows = [], []
        for request, guesser in live:
            tokens = [*request.prompt, *request.output]
            drafts = list(guesser.propose(tokens, DEPTH)) if guesser else []
            span = PlannedSpan(request, len(tokens) - 1, 1, True, drafts)
            spans.append(SpanRows(span, len(rows), 0, 1 + len(drafts)))
            rows += [tokens[-1], *drafts]
        for one, verdict, (_, guesser) in zip(spans, verdicts(TABLE[rows], spans), live, strict=True):
            request, tokens = one.span.request, list(verdict.tokens)
            chain = [([*request.prompt, *request.output])[-1], *tokens]
            pairs += torch.bincount(torch.tensor(chain[:-1]) * VOCAB + torch.tensor(chain[1:]), minlength=VOCAB * VOCAB)
            request.output += tokens
            answer_of(request).take(tokens, ())
            drawn += len(tokens)
            drafts_all += len(one.span.drafts)
            drafts_right += len(tokens) - 1
            if guesser:
                guesser.observe(len(tokens) - 1, len(one.span.drafts))
    return Count(pairs.view(VOCAB, VOCAB), drafts_right / max(1, drafts_all))


def pvalue(pairs: Tensor, setting: Setting) -> float:
    """Of chi-square over all rows of the chain, 0 if a forbidden token came. Seldom tokens are one class."""
    temperature, top_p, is_masked = setting
    exact = distribution(logits_of(is_masked), Filters.same(VOCAB, temperature, top_p, 0, 0.0))
    statistic, freedom = 0.0, 0
    for observed, probability in zip(pairs.double(), exact, strict=True):
        expected = probability * observed.sum()
        if bool((observed[probability == 0] > 0).any()):
            return 0.0
        often = expected >= 5
        classes = [(observed[often], expected[often]), (observed[~often].sum()[None], expected[~often].sum()[None])]
        for found, wanted in classes:
            wanted, found = wanted[wanted > 1e-9], found[wanted > 1e-9]
            statistic += float(((found - wanted) ** 2 / wanted).sum())
            freedom += len(wanted)
        freedom -= 1
    return float(chi2.sf(statistic, freedom))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2_000_000, help="of all settings and proposers together")
    args = parser.parse_args()
    cases = [(name, setting) for name in PROPOSERS for setting in SETTINGS]
    show, worst = progress(len(cases), "cases"), 1.0
    for number, (name, setting) in enumerate(cases):
        count = run(PROPOSERS[name], setting, args.samples // len(cases), seed=1)
        found = pvalue(count.pairs, setting)
        temperature, top_p, is_masked = setting
        worst = min(worst, found)
        case = f"{name}, temperature {temperature}, top_p {top_p}{', grammar' * is_masked}"
        tokens = int(count.pairs.sum())
        print(f"{case}: {tokens:,} tokens, {count.accepted:.0%} of drafts accepted, p = {found:.3f}", flush=True)
        show(number + 1)
    assert worst > 0.001, f"p = {worst}"


if __name__ == "__main__":
    main()
