"""Tokens with drafts are distributed as without: chi-square of a Markov chain against its exact probabilities.

    python -m tests.engine.distribution --samples 2000000        (make distribution)

The chain stands for a model: the logits after token t are row t of a table, and another table has those of its MTP
module. All else is the engine's own: proposers, the drafter, verdicts, random numbers. `sampler.distribution` gives the
exact probabilities of pairs of neighbours; `chain_counts.py` says what is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from tests import small
from tests.engine.chain_counts import Counts
from tests.engine.progress import progress
from wavefold.chat import Prompt
from wavefold.engine import Answer
from wavefold.engine.choosing import bits_of
from wavefold.engine.drafting import Drafter
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Proposer, Text
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.rows import SpanRows, answer_of
from wavefold.engine.sampler import Filters, distribution
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.speculation import Speculation
from wavefold.engine.verdict import verdicts

VOCAB = 12
TOGETHER = 200
"""Requests in a step."""
LENGTH = 60
"""Tokens of an answer."""
DEPTH = 3
TABLE = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)) * 2
NEARLY = TABLE + torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)) / 2
"""The logits of a module that guesses well."""


class Guesses:
    """A proposer that needs nothing but the last token."""

    window, kinds = 0, 1

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        pass

    def kind(self, text: Text) -> int | None:
        return 0

    def seconds(self, depth: int, num_texts: int) -> float:
        return 0.0

    def behind_s(self, text: Text) -> float:
        return 0.0

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        return [self.after(text.tokens[-1], depth) for text, depth in zip(texts, depths, strict=True)]

    def after(self, token: int, depth: int) -> list[int]:
        raise NotImplementedError

    def forget(self, request: Request) -> None:
        pass


class Likeliest(Guesses):
    """Guesses the most likely token each time, as a good drafter does."""

    def after(self, token: int, depth: int) -> list[int]:
        guesses = [token]
        for _ in range(depth):
            guesses.append(int(TABLE[guesses[-1]].argmax()))
        return guesses[1:]


class Dice(Guesses):
    """Guesses any token: mostly wrong."""

    def __init__(self) -> None:
        self._random = Random(1)

    def after(self, token: int, depth: int) -> list[int]:
        return [self._random.randrange(VOCAB) for _ in range(self._random.randint(0, depth))]


class Past:
    """Stands for a sequence in a pool: the tokens that the chain, and its module, have read."""

    num_tokens = num_mtp_tokens = 0

    def skip_mtp(self, num_tokens: int) -> None:
        self.num_mtp_tokens = num_tokens

    def forget_mtp_guesses(self) -> None:
        self.num_mtp_tokens = min(self.num_mtp_tokens, self.num_tokens)

    def rewind(self, num_tokens: int) -> None:
        """As a sequence does: the module's row of the last token read a token that may not come."""
        self.num_tokens -= num_tokens
        self.num_mtp_tokens = min(self.num_mtp_tokens, max(0, self.num_tokens - 1))


class Module:
    """Stands for a model with an MTP module: its logits after a token are another table's, much like the chain's."""

    mtp, runtime, config = True, None, small.SMALL.replace(vocab_size=VOCAB)

    def new_streams(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, 1)

    def extend_mtp(
        self, streams: Tensor, following: Tensor, sequences: Sequence[Past], counts: Sequence[int],
        wanted: Sequence[int], after: Tensor, guessed: bool,
    ) -> Tensor:  # fmt: skip
        assert len(streams) == len(following) == sum(counts) and len(after) == len(wanted)
        for past, count in zip(sequences, counts, strict=True):
            past.num_mtp_tokens += count
            assert guessed or past.num_mtp_tokens <= past.num_tokens, "the module reads what the chain has not"
        return NEARLY[following[list(wanted)]]


class AnyDepth(Speculation):
    """Depths by chance in place of by time, which no two runs have alike."""

    def __init__(self) -> None:
        super().__init__(DEPTH)
        self._random = Random(2)

    def depth(self, *arguments: object) -> int:
        return self._random.randint(0, self.most)

    def speed(self, *arguments: object) -> float:
        return self._random.random()

    def rest(self, *arguments: object) -> int:
        """Too short for a step without streams."""
        return self._random.randint(0, 3)

    def pause(self, fails: int) -> int:
        return self._random.randint(0, 3)


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


PROPOSERS: dict[str, list[Callable[[], Proposer]]] = {
    "none": [], "look-up": [LookupDrafts], "likeliest": [Likeliest], "dice": [Dice],
    "mtp": [lambda: MTPDrafts(Module())], "look-up and mtp": [LookupDrafts, lambda: MTPDrafts(Module())],
}  # fmt: skip
Setting = tuple[float, float, bool]
"""Temperature, top_p, and whether a grammar forbids tokens."""
SETTINGS: list[Setting] = [
    (temperature, top_p, is_masked)
    for temperature in (0.5, 1.0, 1.5) for top_p, is_masked in ((1.0, False), (0.9, False), (1.0, True))
]  # fmt: skip


def run(proposers: Sequence[Callable[[], Proposer]], setting: Setting, samples: int, seed: int = 0) -> Counts:
    """Draws `samples` tokens, or a few more."""
    temperature, top_p, is_masked = setting
    sampling = ResolvedSampling(temperature, top_p, 0, LENGTH, fit_window=False, eos_ids=())
    drafter = Drafter(DEPTH, [proposer() for proposer in proposers], AnyDepth()) if proposers else None
    counts, numbers = Counts(VOCAB, blind=not drafter or not drafter.window), iter(range(10**9))
    live: dict[Request, Past] = {}
    while counts.drawn < samples:
        live = {request: past for request, past in live.items() if len(request.output) < LENGTH}
        while len(live) < TOGETHER:
            number = next(numbers)
            first = number % VOCAB
            grammar = Ban(first) if is_masked else None
            answer = Answer(Prompt([first]), replace(sampling, seed=seed * 10**9 + number), grammar=grammar)
            live[Request(number, answer.prompt.ids, LENGTH, sampling=answer)] = Past()
        spans = planned(list(live), drafter)
        rows = [token for one in spans for token in (known_last(one.span.request), *one.span.drafts)]
        for one, verdict in zip(spans, verdicts(TABLE[rows], spans), strict=True):
            tokens = list(verdict.tokens)
            counts.take(known_last(one.span.request), one.span.drafts, tokens)
            taken(live[one.span.request], one.span, tokens, drafter)
        if drafter:
            drafter.observe_step([one.span for one in spans], 1.0)
    return counts


def planned(live: Sequence[Request], drafter: Drafter | None) -> list[SpanRows]:
    """The rows of a step of all requests. Drafts are for those that have run before, as in the runner."""
    drafts: dict[Request, Sequence[int]] = {}
    if drafter:
        due = [request for request in live if request.output]
        drafts = dict(zip(due, drafter.propose(due, len(live)), strict=True))
    spans: list[SpanRows] = []
    for request in live:
        guesses = drafts.get(request, ())
        span = PlannedSpan(request, len(request.prompt) + len(request.output) - 1, 1, True, guesses)
        first = spans[-1].choice_rows.stop if spans else 0
        spans.append(SpanRows(span, first, 0, 1 + len(guesses)))
    return spans


def taken(past: Past, span: PlannedSpan, tokens: list[int], drafter: Drafter | None) -> None:
    """Takes the tokens of a span, as the runner does: rejected drafts are rewound, then the drafter is told."""
    request = span.request
    past.num_tokens += 1 + len(span.drafts)
    past.rewind(len(span.drafts) + 1 - len(tokens))
    request.output += tokens
    answer_of(request).take(tokens, ())
    if drafter and len(request.output) < LENGTH:
        streams = torch.zeros(len(tokens), 1) if drafter.window_of(request) else None
        drafter.observe(span, past, len(tokens) - 1, streams)
    elif drafter:
        drafter.forget(request)


def known_last(request: Request) -> int:
    return request.output[-1] if request.output else request.prompt[-1]


def exact(setting: Setting) -> Tensor:
    """The chain's probabilities, row by row."""
    temperature, top_p, is_masked = setting
    return distribution(logits_of(is_masked), Filters.same(VOCAB, temperature, top_p, 0, 0.0)).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2_000_000, help="of all settings and proposers together")
    args = parser.parse_args()
    cases = [(name, setting) for name in PROPOSERS for setting in SETTINGS]
    show, worst = progress(len(cases), "cases"), 1.0
    for number, (name, setting) in enumerate(cases):
        counts = run(PROPOSERS[name], setting, args.samples // len(cases), seed=1 + number)
        found = counts.pvalue(exact(setting))
        temperature, top_p, is_masked = setting
        worst = min(worst, found)
        case = f"{name}, temperature {temperature}, top_p {top_p}{', grammar' * is_masked}"
        accepted = f"{counts.accepted_share:.0%} of drafts accepted"
        print(f"{case}: {counts.drawn:,} tokens, {accepted}, p = {found:.3f}", flush=True)
        show(number + 1)
    assert worst > 0.001, f"p = {worst}"


if __name__ == "__main__":
    main()
