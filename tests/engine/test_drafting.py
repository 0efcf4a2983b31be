"""Proposers whose guesses are not worth their rows rest, and nothing is done for them; texts learn from each other."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.distribution import Guesses
from wavefold.engine.drafting import Drafter
from wavefold.engine.proposer import Text
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.speculation import LONGEST_PAUSE
from wavefold.engine.trials import PROBE, PROBE_SHARE

CATCH_UP = 8
ROW_S, DRAFT_S, BEHIND_S = 0.5, 0.25, 0.25


class Counting(Guesses):
    """Guesses one token; counts what it is asked and told. With a window it wants streams."""

    def __init__(self, window: int):
        self.window = window
        self.asked = self.told = self.proposed = 0

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        self.told += 1

    def kind(self, text: Text) -> int | None:
        self.asked += 1
        return 0

    def seconds(self, depth: int, num_texts: int) -> float:
        return DRAFT_S * depth if self.window else 0.0

    def behind_s(self, text: Text) -> float:
        return BEHIND_S if self.window else 0.0

    def after(self, token: int, depth: int) -> list[int]:
        self.proposed += 1
        return [7] * depth


class Steps:
    """A text after another through a drafter, as the runner does it. A step of r rows takes 0.5 (1 + r) seconds."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.number, self.seconds = drafter, 0, 0.0

    def run(self, num_steps: int, right: bool) -> tuple[list[int], int]:
        """Returns the depths of the steps of a new text, and how many of them gave streams."""
        self.number += 1
        request, sequence = Request(self.number, [1, 2, 3], 10**6), SimpleNamespace(num_tokens=3)
        self._observed(PlannedSpan(request, 0, 3, True), sequence, 0)
        depths, with_streams = [], 0
        for _ in range(num_steps):
            due = self.drafter.due([request])
            drafts: Sequence[int] = self.drafter.propose(due, 1)[0] if due else ()
            span = PlannedSpan(request, len(request.output), 1, True, drafts)
            with_streams += self._observed(span, sequence, len(drafts) if right else 0)
            took = ROW_S * (2 + len(drafts))
            self.seconds += took
            self.drafter.observe_step([span], took)
            depths.append(len(drafts))
        self.drafter.forget(request)
        return depths, with_streams

    def _observed(self, span: PlannedSpan, sequence: Any, accepted: int) -> bool:
        streams = torch.zeros(1, 1) if self.drafter.window_of(span.request) else None
        span.request.output.extend([7] * (1 + accepted))
        self.drafter.observe(span, sequence, accepted, streams)
        return streams is not None


@pytest.mark.parametrize("window", [0, CATCH_UP])
def test_nothing_is_done_while_a_text_rests(window: int) -> None:
    proposer = Counting(window)
    steps = Steps(Drafter(4, [proposer]))
    steps.run(400, right=False)
    proposer.asked = proposer.told = proposer.proposed = 0
    before, began = steps.number, steps.seconds
    depths, with_streams = steps.run(2000, right=False)
    assert before == 1 and set(depths) == {0, 1}
    trial_s = ROW_S + (DRAFT_S + BEHIND_S if window else 0.0)
    share = sum(depths) * trial_s / (steps.seconds - began)
    assert 0.003 < share < PROBE_SHARE * 1.05
    assert proposer.proposed == sum(depths) <= 2000 // PROBE
    assert with_streams <= (sum(depths) + 1) * (window + 1)
    assert proposer.told <= with_streams + sum(depths)
    assert proposer.asked <= (sum(depths) + 1) * 2 if window else proposer.asked < 2.5 * 2000 / (1 + LONGEST_PAUSE)


def test_drafts_that_pay_never_rest() -> None:
    for window in (0, CATCH_UP):
        depths, with_streams = Steps(Drafter(4, [Counting(window)])).run(200, right=True)
        assert set(depths[20:]) == {4}
        assert with_streams == (200 if window else 0)


@pytest.mark.parametrize("right", [False, True])
def test_a_new_text_begins_where_others_are(right: bool) -> None:
    """Drafts of 4 at once after texts whose guesses were right; a rest, and no streams, after others."""
    steps = Steps(Drafter(4, [Counting(CATCH_UP)]))
    steps.run(400, right)
    depths, with_streams = steps.run(20, right)
    assert depths == [4 if right else 0] * 20
    assert with_streams == (20 if right else 0)


def test_steps_that_read_prompts_pass_the_time_of_a_rest() -> None:
    """Beside prompts that are always read, a text that rests is asked again."""
    proposer = Counting(0)
    steps = Steps(Drafter(4, [proposer]))
    steps.run(400, right=False)
    request, other = Request(-1, [1], 10**6), Request(-2, [1] * 500, 1)
    steps._observed(PlannedSpan(request, 0, 1, True), SimpleNamespace(num_tokens=1), 0)
    proposer.asked = 0
    for _ in range(200):
        due = steps.drafter.due([request])
        if due:
            steps.drafter.propose(due, 1)
        steps.drafter.observe_step([PlannedSpan(request, 0, 1, True), PlannedSpan(other, 0, 4, False)], 1.0)
    assert proposer.asked > 10


def test_an_aborted_request_is_not_due() -> None:
    drafter = Drafter(4, [Counting(0)])
    assert drafter.due([Request(0, [1], 4)]) == []
