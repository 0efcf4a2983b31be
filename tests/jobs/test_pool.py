"""A batch over the models of a pool that has room for one: each is loaded once, and answers as it does for a client."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDS = ("pydantic", "deepseek_recipe", "starlette", "uvicorn", "prometheus_client", "python_multipart")
if any(importlib.util.find_spec(name) is None for name in NEEDS):
    pytest.skip(f"needs {', '.join(NEEDS)}", allow_module_level=True)

from tests.jobs.working import added, line  # noqa: E402
from tests.server.pooled import NAMES, PROMPT, alone, folder, pool, pool_of  # noqa: E402, F401
from tests.server.running import Running, running_models, wait_until  # noqa: E402
from wavefold import ops  # noqa: E402
from wavefold.jobs.queue import Queue  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    """As in tests/server: all that compute are the same."""
    with ops.using(backend="auto"):
        yield


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Running]:  # noqa: F811
    with running_models(pool_of(folder, 1.5), jobs=tmp_path / "jobs") as server:
        yield server


def test_each_model_is_loaded_once(server: Running, alone: dict[str, str]) -> None:  # noqa: F811
    jobs = server.served.jobs
    assert jobs is not None
    lines = [line(f"{number} {name}", name, **PROMPT) for number in range(6) for name in NAMES]
    with Queue(jobs.folder, create=True) as queue:
        batch = added(queue, lines)
        wait_until(lambda: queue.batch(batch)["state"] == "completed", 60)
        row = queue.batch(batch)
        results = [json.loads(text) for text in queue.results(row["number"])]
        assert row["swaps"] == len(NAMES) == pool(server).num_loads
    assert [one["custom_id"] for one in results] == [one["custom_id"] for one in lines]
    for one in results:
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["choices"][0]["text"] == alone[one["custom_id"].split()[1]]


def test_a_client_of_another_model_does_not_wait_for_lines(server: Running, alone: dict[str, str]) -> None:  # noqa: F811
    """One that is under way would be done first, else: it has 900 tokens to go."""
    jobs = server.served.jobs
    assert jobs is not None
    with Queue(jobs.folder, create=True) as queue:
        batch = added(queue, [line("long", "one", **{**PROMPT, "max_tokens": 900})])
        wait_until(lambda: server.served.num_running > 0)
        status, _, body = server.ask("/v1/completions", {"model": "two", **PROMPT})
        assert status == 200 and json.loads(body)["choices"][0]["text"] == alone["two"]
        assert list(queue.results(queue.batch(batch)["number"])) == []
        wait_until(lambda: queue.batch(batch)["state"] == "completed", 60)
        [result] = [json.loads(text) for text in queue.results(queue.batch(batch)["number"])]
        assert result["response"]["body"]["usage"]["completion_tokens"] == 900
