"""Nothing of one request in another's answer: a small run of isolation.py."""

from __future__ import annotations

import pytest

from tests.server.isolation import KINDS, Kind, isolate


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_gets_its_own_answer(kind: Kind) -> None:
    seen, preempted = isolate(24, kind, num_prompts=8)
    assert sum(seen.values()) == 24 and (seen["left"] > 2) == (kind.leaving > 0)
    assert (preempted > 0) == (kind.cache_tokens < 2000)


def test_an_answer_of_another_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of one request that go to the next one's writer."""
    from wavefold.server.exchange import Exchange

    frames, before = Exchange._frames, []

    def swapped(self: Exchange, index: int, reader: object) -> bytes:
        news = reader._news  # type: ignore[attr-defined]
        if news.ids:
            before.append(news.ids)
            news.ids = before[len(before) // 2]
        return frames(self, index, reader)  # type: ignore[arg-type]

    monkeypatch.setattr(Exchange, "_frames", swapped)
    with pytest.raises(AssertionError, match="not the answer alone"):
        isolate(20, KINDS[0], num_prompts=10)
