"""Drafts change no distribution; a rule that accepts too many is seen. `make distribution` draws two million."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from tests.engine.distribution import PROPOSERS, SETTINGS, Setting, exact, run
from wavefold.engine import verdict

SAMPLES = 3_000


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", PROPOSERS)
def test_the_distribution_is_the_models(name: str, setting: Setting) -> None:
    """Each case draws numbers of its own: with the same ones, drafts would leave the tokens as they are."""
    seed = list(PROPOSERS).index(name) * len(SETTINGS) + SETTINGS.index(setting)
    counts = run(PROPOSERS[name], setting, SAMPLES, seed)
    assert counts.pvalue(exact(setting)) > 0.001
    assert (counts.accepted > 0) == (name != "none")


@pytest.mark.parametrize("name", [name for name in PROPOSERS if name != "none"])
def test_one_wrong_draft_in_twenty_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, random = verdict._accepted, Random(0)

    def too_many(drafts: Sequence[int], chosen: Sequence[int | None]) -> tuple[list[int], str]:
        lenient = [
            drafts[number] if number < len(drafts) and random.random() < 0.05 else token
            for number, token in enumerate(chosen)
        ]
        return accepted(drafts, lenient)

    setting = 1.0, 0.9, False
    monkeypatch.setattr(verdict, "_accepted", too_many)
    counts = run(PROPOSERS[name], setting, 30_000)
    assert counts.pvalue(exact(setting)) < 1e-6
    if name == "look-up":
        assert counts.pvalue_of_pairs(exact(setting)) > 0.001, "pairs alone do not see it"
