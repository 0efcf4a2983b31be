"""Workers that look more often than people need."""

from __future__ import annotations

import pytest

from wavefold.jobs import worker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_S", 0.02), ("BUSY_POLL_S", 0.005), ("RETRY_S", 0.01), ("LOCK_S", 0.1)):
        monkeypatch.setattr(worker, name, seconds)
