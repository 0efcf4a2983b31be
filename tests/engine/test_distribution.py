"""Drafts change no distribution; a rule that accepts too many is seen. `make distribution` draws two million."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from tests.engine.distribution import PROPOSERS, SETTINGS, Setting, pvalue, run
from wavefold.engine import verdict

SAMPLES = 4_000


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", PROPOSERS)
def test_the_distribution_is_the_models(name: str, setting: Setting) -> None:
    count = run(PROPOSERS[name], setting, SAMPLES)
    assert pvalue(count.pairs, setting) > 0.001
    assert (count.accepted > 0) == (name != "none")


def test_one_wrong_draft_in_twenty_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, random = verdict._accepted, Random(0)

    def too_many(drafts: Sequence[int], chosen: Sequence[int | None]) -> tuple[list[int], str]:
        lenient = [
            drafts[number] if number < len(drafts) and random.random() < 0.05 else token
            for number, token in enumerate(chosen)
        ]
        return accepted(drafts, lenient)

    monkeypatch.setattr(verdict, "_accepted", too_many)
    for setting in SETTINGS[3:5]:
        count = run(PROPOSERS["dice"], setting, 5 * SAMPLES)
        assert pvalue(count.pairs, setting) < 1e-6
