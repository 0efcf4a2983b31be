"""Free memory goes back to the system in quiet moments, and in those alone."""

from __future__ import annotations

import asyncio

import pytest

from wavefold.ops.native.heap import trim_of_libc
from wavefold.server import tidy
from wavefold.server.tidy import Tidy
from wavefold.system.memory import rss_bytes


def test_free_memory_goes_back() -> None:
    trim = trim_of_libc()
    if trim is None:
        pytest.skip("this C library has no malloc_trim")
    blocks = [bytearray(b"x" * 60_000) for _ in range(2000)]
    pins = blocks[::100]
    blocks.clear()
    before = rss_bytes()
    trim()
    assert before - rss_bytes() > 60e6 and len(pins) == 20


def test_it_waits_for_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "QUIET_S", 0.02)
    monkeypatch.setattr(tidy, "EVERY_S", 0.0)
    calls: list[int] = []

    async def main() -> None:
        counter = Tidy(lambda: calls.append(1))
        counter.begin()
        counter.begin()
        counter.end()
        await asyncio.sleep(0.1)
        assert not calls  # one is open
        counter.end()
        counter.begin()
        await asyncio.sleep(0.1)
        assert not calls  # one came before it was quiet
        counter.end()
        while not calls:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert len(calls) == 1

    asyncio.run(main())
