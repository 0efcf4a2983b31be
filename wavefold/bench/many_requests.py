"""Requests that are sent all at once: when their tokens came, and the figures of that.

times of tokens  ->  Waits          whoever answered: tokens/s, first tokens, stand-stills
our own steps    ->  StepFigures    a step in which all decode, beside what its bytes or operations take at the least
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from wavefold.bench.limits import Limits
from wavefold.bench.speed import decode_bytes
from wavefold.config import ModelConfig
from wavefold.engine.request import Request
from wavefold.engine.runner import Runner
from wavefold.experts.store import ExpertView
from wavefold.model import Step, Transformer
from wavefold.plan.flops import decode_flops
from wavefold.plan.tensors import tensor_kinds

Times = Sequence[Sequence[float]]
"""Seconds from the start to the tokens of each request, in order."""


class Waits(NamedTuple):
    """Figures of one turn.

    `tokens_per_s`: new tokens over the whole time. `first_s`, `first_most_s`: until the first token, median and
    largest. `still_s`: the longest between two tokens of a request. `step_s`: the median of that while all requests
    decode. The last two are None where nobody waited so.
    """

    tokens_per_s: float
    first_s: float
    first_most_s: float
    still_s: float | None
    step_s: float | None


def waits(times: Times, new: int) -> Waits:
    """Returns the figures of requests for `new` tokens. Raises ValueError for an answer of another length."""
    if wrong := [len(tokens) for tokens in times if len(tokens) != new]:
        raise ValueError(f"an answer of {wrong[0]} tokens came; expected {new} for each request")
    first = [tokens[0] for tokens in times]
    all_began, one_ended = max(first), min(tokens[-1] for tokens in times)
    gaps = [gap for tokens in times for gap in pairwise(tokens)]
    together = [after - before for before, after in gaps if all_began <= before and after <= one_ended]
    return Waits(
        sum(map(len, times)) / max(tokens[-1] for tokens in times), statistics.median(first), all_began,
        max((after - before for before, after in gaps), default=None),
        statistics.median(together) if together else None,
    )  # fmt: skip


class StepTime(NamedTuple):
    """A step of a runner: its seconds, those inside the pass, its rows and new tokens.

    `experts_met`: the distinct routed experts of all layers, in a step that counted them, whose seconds do not count.
    """

    seconds: float
    pass_s: float
    rows: int
    new: int
    experts_met: int | None = None


class Passes:
    """Times the passes of a model from now on, and counts the experts of those that it is asked to."""

    def __init__(self, model: Transformer, clock: Callable[[], float] = time.perf_counter):
        self._model, self._clock, self._forward = model, clock, model.forward_step
        self.seconds, self.rows = 0.0, 0
        """Of the last pass."""
        self.experts_met: int | None = None
        self.counts = False
        """True if the next pass counts experts, which takes longer."""
        model.forward_step = self._timed  # type: ignore[method-assign]

    def _timed(self, step: Step, streams: Tensor | None = None) -> Tensor:
        with counted(self._model) if self.counts else contextlib.nullcontext() as ids:
            began = self._clock()
            logits = self._forward(step, streams)
            self.seconds, self.rows = self._clock() - began, len(step.tokens)
        self.experts_met, self.counts = None if ids is None else len(ids), False
        return logits


@contextlib.contextmanager
def counted(model: Transformer) -> Iterator[list[int]]:
    """Within it passes run layer by layer. The list grows by the distinct experts that each layer of them meets."""
    store, met = model.experts.store, list[int]()
    acquire, whole = store.acquire, model._cpu.whole

    def counting(layer: int, ids: Sequence[int]) -> ExpertView:
        met.extend(ids)
        return acquire(layer, ids)

    store.acquire, model._cpu.whole = counting, None  # type: ignore[method-assign]
    try:
        yield met
    finally:
        store.acquire, model._cpu.whole = acquire, whole  # type: ignore[method-assign]


def run_requests(
    runner: Runner, requests: Sequence[Request], passes: Passes, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[list[float]], list[StepTime]]:
    """Runs requests whose ids are their numbers. Returns the times of their tokens, and the steps.

    Experts are counted once, in the first step that all requests decode in after half of their tokens.
    """
    began = clock()
    for request in requests:
        runner.add(request)
    times: list[list[float]] = [[] for _ in requests]
    steps: list[StepTime] = []
    half, is_counted = sum(request.max_tokens for request in requests) / 2, False
    while not runner.idle:
        passes.counts = not is_counted and all(times) and sum(map(len, times)) >= half
        is_counted |= passes.counts
        before = clock()
        outputs = runner.step()
        now = clock()
        for output in outputs:
            times[output.request.id] += [now - began] * len(output.tokens)  # type: ignore[call-overload]
        steps.append(StepTime(now - before, passes.seconds, passes.rows, len(outputs), passes.experts_met))
    return times, steps


class StepFigures(NamedTuple):
    """A step in which all requests decode: seconds, and the share of them outside the pass.

    `experts_met`: as counted. `bound_s`: what its bytes, or its operations, take at the least; `bound_by` says which.
    """

    step_s: float
    engine_share: float
    experts_met: int
    bound_s: float
    bound_by: str

    @property
    def bound_share(self) -> float:
        return self.bound_s / self.step_s


def step_figures(
    steps: Sequence[StepTime], count: int, config: ModelConfig, past: int, packed_records: bool, limits: Limits
) -> StepFigures | None:
    """Returns the figures of a turn of `count` requests with `past` tokens each; None where never all of them decoded.

    The step that counted is not timed.
    """
    timed = [step for step in steps if step.rows == step.new == count and step.experts_met is None]
    experts_met = next((step.experts_met for step in steps if step.experts_met is not None), None)
    if not timed or experts_met is None:
        return None
    bound = limits.bound(*step_amounts(config, count, past, packed_records, experts_met))
    return StepFigures(
        statistics.median(step.seconds for step in timed),
        statistics.median(1 - step.pass_s / step.seconds for step in timed), experts_met, *bound,
    )  # fmt: skip


def step_amounts(
    config: ModelConfig, count: int, past: int, packed_records: bool, experts_met: float
) -> tuple[float, float]:
    """Bytes and operations that a step of `count` sequences with `past` tokens needs.

    Weights are read once, of the routed experts those that were met, and each sequence's part of the cache.
    """
    kinds = [kind for kind in tensor_kinds(config) if kind.active]
    weights = sum(kind.bytes * kind.active_values // kind.values for kind in kinds)
    cache = decode_bytes(config, past, packed_records) - weights
    routed = [kind for kind in kinds if kind.part == "routed"]
    active = sum(kind.bytes * kind.active_values // kind.values for kind in routed)
    met = sum(kind.bytes for kind in routed) * experts_met / (config.num_hidden_layers * config.n_routed_experts)
    return weights - active + met + count * cache, count * decode_flops(config, past).raw
