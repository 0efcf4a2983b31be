"""An adapter's `generation_config.json` behind a server: for all protocols and batches, read again when it changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import write_adapter
from tests.jobs.working import added, line
from tests.server.pooled import pool, pool_of, states
from tests.server.running import Running, running_models, wait_until
from wavefold import ModelConfig
from wavefold.jobs import worker
from wavefold.jobs.queue import Queue

FILE = "generation_config.json"
TEXT = "def f("
MESSAGES = [{"role": "user", "content": TEXT}]
PROTOCOLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 12},
    "/v1/completions": {"prompt": TEXT, "max_tokens": 12},
    "/v1/responses": {"input": TEXT, "max_output_tokens": 12},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 12},
}


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """`one:greedy` says how it is asked, `one:silent` has the same matrices and does not."""
    monkeypatch.setattr(worker, "POLL_S", 0.02)
    root = tmp_path / "models"
    root.mkdir()
    (root / "one").symlink_to(folder / "one")
    models = pool_of(root, 1.5)
    for name in ("greedy", "silent"):
        write_adapter(root / name, ModelConfig.from_file(root / "one"), 1, base_model_name_or_path="one")
    (root / "greedy" / FILE).write_text('{"do_sample": false}')
    with running_models(models, jobs=tmp_path / "jobs") as server:
        wait_until(lambda: {"one:greedy", "one:silent"} <= set(pool(server).names))
        yield server


def said(answer: dict[str, Any]) -> str:
    """The text of an answer of any protocol."""
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    contents = answer["content"] if "content" in answer else answer["output"][0]["content"]
    return str(contents[0]["text"])


def asked(server: Running, path: str, name: str, **more: Any) -> str:
    status, _, data = server.ask(path, {"model": f"one:{name}", **PROTOCOLS[path], **more})
    assert status == 200, data
    return said(json.loads(data))


@pytest.mark.parametrize("path", PROTOCOLS)
def test_all_protocols_answer_as_the_adapter_says(server: Running, path: str) -> None:
    expected = asked(server, path, "silent", temperature=0)
    assert [asked(server, path, "greedy") for _ in range(3)] == [expected] * 3
    assert asked(server, path, "silent") != expected, "drawn from a random model's tokens"
    assert asked(server, path, "greedy", temperature=1) != expected, "the value of a request is not taken"


def test_lines_of_a_batch_too(server: Running) -> None:
    expected = asked(server, "/v1/completions", "silent", temperature=0)
    jobs = server.served.jobs
    assert jobs is not None
    body = PROTOCOLS["/v1/completions"]
    with Queue(jobs.folder, create=True) as queue:
        batch = added(queue, [line(str(number), "one:greedy", **body) for number in range(3)])
        wait_until(lambda: queue.batch(batch)["state"] == "completed", 60)
        results = [json.loads(text) for text in queue.results(queue.batch(batch)["number"])]
    assert [said(result["response"]["body"]) for result in results] == [expected] * 3


def test_a_file_that_changes_is_read_again(server: Running) -> None:
    path, place = "/v1/completions", pool(server).folder / "silent"
    expected = asked(server, path, "silent", temperature=0)
    (place / FILE).write_text('{"temperature": 0}')
    wait_until(lambda: states(server).get("one:silent") == "on disk")
    assert asked(server, path, "silent") == expected
    (place / FILE).write_text('{"temperature": "cold"}')
    wait_until(lambda: states(server).get("one:silent") == "on disk")
    status, _, data = server.ask(path, {"model": "one:silent", **PROTOCOLS[path]})
    message = json.loads(data)["error"]["message"]
    assert status == 503 and "adapter 'one:silent' cannot be loaded" in message
    assert f"{FILE}: temperature = 'cold' is not allowed" in message
    (place / FILE).unlink()
    wait_until(lambda: server.ask(path, {"model": "one:silent", **PROTOCOLS[path]})[0] == 200)
    assert asked(server, path, "silent") != expected
