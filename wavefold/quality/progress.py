"""How long a card takes: an estimate from two rates of this model on this machine, corrected as units are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from wavefold.engine import Sampling
from wavefold.quality.part import Unit
from wavefold.quality.subject import Subject

TRIAL_TOKENS, TRIAL_ANSWERS, TRIAL_DECODE = 256, 8, 8


@dataclass(frozen=True)
class Rates:
    """Tokens a second of prompts, and of answers that are computed together."""

    prompt: float
    decode: float

    def seconds(self, unit: Unit) -> float:
        return unit.prompt / self.prompt + unit.decode / self.decode


def measured_rates(subject: Subject) -> Rates:
    """Reads a short text and chooses some tokens after it. The first pass, which is slower, does not count."""
    ids = [subject.tokenizer.bos_id, *(number % subject.vocab_size for number in range(7, 7 + TRIAL_TOKENS))]
    subject.nats(ids[:32], range(31))
    began = time.perf_counter()
    subject.nats(ids, range(TRIAL_TOKENS))
    read = time.perf_counter()
    sampling = Sampling(TRIAL_DECODE, 0.0)
    answers = subject.llm.generate([ids[:8]] * TRIAL_ANSWERS, sampling)
    decoded = time.perf_counter()
    num = sum(len(answer.tokens) for answer in answers)
    return Rates(TRIAL_TOKENS / (read - began), max(1, num) / (decoded - read))


class Clock:
    """The time that is left, of units with known estimates: scaled by how right the estimates were so far."""

    def __init__(self, estimates: float, told: Callable[[float, float], None]):
        """`told(share done, seconds left)` hears of each unit."""
        self._all, self._done, self._told = estimates, 0.0, told
        self._began = time.monotonic()
        self.left = estimates
        """Seconds that are left."""

    def done(self, estimate: float) -> None:
        self._done += estimate
        passed = time.monotonic() - self._began
        self.left = max(0.0, self._all - self._done) * (passed / self._done if self._done else 1.0)
        self._told(self._done / self._all if self._all else 1.0, self.left)
