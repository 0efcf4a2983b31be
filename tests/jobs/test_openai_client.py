"""The official client's files and batches against a server that runs, on the model that ships."""

from __future__ import annotations

import errno
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wavefold import LLM, ops

NEEDS = ("pydantic", "deepseek_recipe", "starlette", "uvicorn", "prometheus_client", "openai", "python_multipart")
if any(importlib.util.find_spec(name) is None for name in NEEDS):
    pytest.skip(f"needs {', '.join(NEEDS)}", allow_module_level=True)

import openai  # noqa: E402

from tests.server.running import Running, running, wait_until  # noqa: E402
from tests.server.test_serving_doc import QUEUED  # noqa: E402
from wavefold.jobs.queue import Queue  # noqa: E402
from wavefold.jobs.schema import NotNow  # noqa: E402
from wavefold.server.contexts import context_for  # noqa: E402
from wavefold.server.protocol import PROTOCOLS  # noqa: E402

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server") / "jobs"
    with (
        ops.using(backend="auto"), LLM(width=4, threads=1, cache_tokens=16_384) as llm,
        running(llm, PROTOCOLS, context_for(llm, ("wavefold",)), jobs=folder) as server,
    ):  # fmt: skip
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def line(custom_id: str, url: str = TEXT, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "wavefold", **body}}


def uploaded(client: Any, *lines: Any) -> str:
    return client.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch").id


def ended(client: Any, batch: Any) -> Any:
    wait_until(lambda: client.batches.retrieve(batch.id).status not in ("in_progress", "validating", "finalizing"), 60)
    return client.batches.retrieve(batch.id)


def content(client: Any, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def created(client: Any, *lines: Any, endpoint: str = TEXT, **more: Any) -> Any:
    return client.batches.create(
        input_file_id=uploaded(client, *lines), endpoint=endpoint, completion_window="24h", **more
    )


def test_answers_are_those_of_the_endpoint(client: Any, server: Running) -> None:
    """Each to the token, the refused one with the endpoint's own words."""
    lines = [line(f"line {number}", prompt=f"def f{number}(", max_tokens=6, temperature=0) for number in range(8)]
    lines.append(line("wrong", prompt="a", temperature=99))
    batch = created(client, *lines, metadata={"night": "1"})
    assert (batch.object, batch.endpoint, batch.status, batch.metadata) == (
        "batch",
        TEXT,
        "in_progress",
        {"night": "1"},
    )
    batch = ended(client, batch)
    assert (batch.status, batch.model) == ("completed", "wavefold") and batch.completed_at >= batch.created_at
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (9, 8, 1)
    results = content(client, batch.output_file_id)
    for result, asked in zip(results, lines, strict=False):
        assert result["custom_id"] == asked["custom_id"] and result["response"]["status_code"] == 200
        alone = client.completions.create(**asked["body"])
        assert result["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
    usage = [result["response"]["body"]["usage"] for result in results]
    assert batch.usage.input_tokens == sum(one["prompt_tokens"] for one in usage)
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in usage)
    refused = content(client, batch.error_file_id)
    status, _, body = server.ask(TEXT, lines[-1]["body"])
    assert [(one["custom_id"], one["response"]["status_code"]) for one in refused] == [("wrong", 400)] and status == 400
    assert refused[0]["response"]["body"] == json.loads(body)


@pytest.mark.parametrize(("url", "body", "kind"), [
    (CHAT, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}, openai.types.chat.ChatCompletion),
    (RESPONSES, {"input": "Hi", "max_output_tokens": 16}, openai.types.responses.Response),
])  # fmt: skip
def test_other_endpoints(client: Any, url: str, body: dict[str, Any], kind: Any) -> None:
    batch = ended(client, created(client, line("one", url, **body), endpoint=url))
    (result,) = content(client, batch.output_file_id)
    assert result["response"]["status_code"] == 200
    answer = kind.model_validate(result["response"]["body"])
    assert answer.model == "wavefold" and batch.usage.output_tokens > 0


def test_files(client: Any) -> None:
    data = jsonl(line("one", prompt="a"))
    file = client.files.create(file=("näme.jsonl", data), purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.object) == ("näme.jsonl", len(data), "batch", "file")
    assert client.files.retrieve(file.id) == file and client.files.content(file.id).content == data
    other = client.files.create(file=b"", purpose="batch")
    assert [one.id for one in client.files.list(limit=2)][:2] == [other.id, file.id]  # all pages of two
    assert [one.id for one in client.files.list(order="asc", after=file.id)][-1] == other.id
    assert client.files.list(purpose="vision").data == []
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.content(file.id)


def test_batches_are_listed_and_cancelled(client: Any) -> None:
    night = {"quiet_hours": "00:00-00:01" if time.localtime().tm_hour else "12:00-12:01"}
    lines = [line(str(number), prompt="a", max_tokens=4) for number in range(3)]
    batches = [created(client, *lines, extra_body={**night, "priority": number}) for number in range(3)]
    listed = list(client.batches.list(limit=2))
    assert [batch.id for batch in listed[:3]] == [batch.id for batch in batches[::-1]]
    assert client.batches.list(limit=1, after=batches[1].id).data[0].id == batches[0].id
    assert listed[0].wavefold["priority"] == 2 and listed[0].wavefold["quiet_hours"] == night["quiet_hours"]
    assert "its quiet hours are" in listed[0].wavefold["paused"]
    for batch in batches:
        assert client.batches.cancel(batch.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="is cancelled"):
        client.batches.cancel(batches[0].id)
    cancelled = client.batches.retrieve(batches[0].id)
    assert cancelled.request_counts.total == 3 and cancelled.wavefold["paused"] is None


def test_one_that_has_ended_is_removed(client: Any, server: Running) -> None:
    batch = created(client, line("a", prompt="a", max_tokens=2), extra_body={"quiet_hours": "00:00-00:01"
                    if time.localtime().tm_hour else "12:00-12:01"})  # fmt: skip
    status, _, body = server.ask(f"/v1/batches/{batch.id}", method="DELETE")
    assert status == 400 and b"has not ended; cancel it first" in body
    client.batches.cancel(batch.id)
    status, _, body = server.ask(f"/v1/batches/{batch.id}", method="DELETE")
    assert status == 200 and json.loads(body) == {"id": batch.id, "object": "batch", "deleted": True}
    for gone in (lambda: client.batches.retrieve(batch.id), lambda: client.files.retrieve(batch.input_file_id)):
        with pytest.raises(openai.NotFoundError):
            gone()
    assert server.ask(f"/v1/batches/{batch.id}", method="DELETE")[0] == 404


@pytest.mark.parametrize(("number", "status", "code"), [
    (errno.ENOSPC, 507, "no_room"), (errno.EIO, 503, "queue_not_ready")
])  # fmt: skip
def test_a_disk_that_cannot_be_used(
    client: Any, server: Running, monkeypatch: pytest.MonkeyPatch, number: int, status: int, code: str
) -> None:
    def fails(queue: Queue) -> None:
        raise NotNow(number, "queue.db: the disk cannot be used")

    monkeypatch.setattr(Queue, "batches", fails)
    with pytest.raises(openai.APIStatusError, match="the disk cannot be used") as error:
        client.batches.list()
    assert (error.value.status_code, error.value.code) == (status, code)


def test_a_file_that_makes_no_batch(client: Any) -> None:
    """Its batch has failed, with each line's error."""
    lines = [line("a", prompt="a"), line("a", prompt="a"), line("b", CHAT), {"custom_id": "c"}, [1]]
    batch = created(client, *lines)
    assert batch.status == "failed" and batch.failed_at and batch.request_counts.total == 0
    found = [(error.line, error.code) for error in batch.errors.data]
    assert found == [(2, "duplicate_custom_id"), (3, "invalid_url"), (4, "invalid_method"), (5, "invalid_json_line")]
    assert [error.code for error in created(client).errors.data] == ["empty_file"]


def test_what_is_refused(client: Any, server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no batch"):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"a", purpose="vision")
    file = uploaded(client, line("a", prompt="a"))
    for field, value in (("completion_window", "1h"), ("endpoint", "/v1/embeddings"), ("metadata", {"a": 1})):
        with pytest.raises(openai.BadRequestError) as error:
            client.batches.create(**{"input_file_id": file, "endpoint": TEXT, "completion_window": "24h", field: value})
        assert field in (error.value.param or "")
    with pytest.raises(openai.BadRequestError, match="quiet hours"):
        created(client, line("a", prompt="a"), extra_body={"quiet_hours": "25:00-1:00"})
    with pytest.raises(openai.BadRequestError, match="output_expires_after"):
        created(client, line("a", prompt="a"), output_expires_after={"anchor": "created_at", "seconds": 3600})
    for query in ("limit=0", "limit=x", "after=none"):
        assert server.ask(f"/v1/batches?{query}")[0] == 400
    assert server.ask("/v1/files?order=up")[0] == 400


FORM = b'--b\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FILE, PURPOSE = FORM % (b"file", b'; filename="a"', b"{}\n"), FORM % (b"purpose", b"", b"batch")


@pytest.mark.parametrize(("body", "kind", "status", "message"), [
    (FILE + PURPOSE + b"--b--\r\n", "multipart/form-data; boundary=b", 200, "file-"),
    (PURPOSE + FILE + b"--b--\r\n", 'multipart/form-data; boundary="b"', 200, "file-"),
    (FILE + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "purpose"),
    (PURPOSE + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "has no file"),
    (FILE + PURPOSE, "multipart/form-data; boundary=b", 400, "ends before"),
    (FILE + FILE + PURPOSE + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "two files"),
    (FORM % (b"purpose", b"", b"x" * 2000) + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "more than 1024"),
    (PURPOSE + FORM % (b"other", b"", b"1") + FILE + b"--b--\r\n", "multipart/form-data; boundary=b", 400, "other"),
    (b"".join(FORM % (b"f%d" % i, b"", b"") for i in range(20)) + b"--b--", "multipart/form-data; boundary=b", 400,
     "one too many"),
    (FORM % (b"file", b'; filename="%s"' % (b"a" * 5000), b"") + b"--b--", "multipart/form-data; boundary=b", 400,
     "cannot be read"),
    (b"no form", "multipart/form-data; boundary=b", 400, "cannot be read"),
    (FILE, "multipart/form-data; boundary=" + "b" * 300, 400, "cannot be read"),
    (FILE, "multipart/form-data", 400, "is no form"), (b"{}", "application/json", 400, "is no form"),
])  # fmt: skip
def test_forms(server: Running, body: bytes, kind: str, status: int, message: str) -> None:
    found, _, answer = server.ask("/v1/files", body, {"content-type": kind})
    assert found == status and message in answer.decode()
    jobs = server.served.jobs
    assert jobs is not None
    wait_until(lambda: not [path for path in (jobs.folder / "files").iterdir() if path.name.startswith(".")])


def test_a_large_file_is_refused_as_it_comes(client: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = server.served.jobs
    assert jobs is not None
    monkeypatch.setattr(jobs, "most_upload", 100_000)
    assert client.files.create(file=bytes(100_000), purpose="batch").bytes == 100_000
    for size in (100_001, 165_000, 190_000):
        with pytest.raises(openai.APIStatusError, match="larger than 100,000 bytes") as error:
            client.files.create(file=bytes(size), purpose="batch")
        assert error.value.status_code == 413


def test_clients_are_first(client: Any, server: Running) -> None:
    """While a stream is open no line is begun; the batch goes on when it has ended."""
    stream = client.completions.create(model="wavefold", prompt="a", max_tokens=4000, stream=True,
                                       extra_body={"logit_bias": {"1": -100}})  # fmt: skip
    next(iter(stream))
    batch = created(client, line("a", prompt="a", max_tokens=2))
    jobs = server.served.jobs
    assert jobs is not None and jobs.clients.num_open == 1
    time.sleep(0.2)
    assert client.batches.retrieve(batch.id).request_counts.completed == 0
    stream.close()
    assert ended(client, batch).request_counts.completed == 1


def test_another_process_adds(client: Any, server: Running, tmp_path: Path) -> None:
    jobs = server.served.jobs
    assert jobs is not None
    (tmp_path / "in.jsonl").write_bytes(jsonl(line("late", prompt="a", max_tokens=2)))
    with Queue(jobs.folder) as queue:
        batch = queue.add(queue.keep(tmp_path / "in.jsonl"))
    wait_until(lambda: client.batches.retrieve(batch).status == "completed")


def test_it_is_described(server: Running) -> None:
    _, _, data = server.ask("/openapi.json")
    assert json.loads(data)["paths"]["/v1/batches"]["post"]["summary"] == "A batch of the lines of an uploaded file."
    assert b"quiet_hours" in server.ask("/docs")[2]


@pytest.mark.parametrize("program", QUEUED)
def test_the_program_of_the_document(server: Running, tmp_path: Path, program: str) -> None:
    (tmp_path / "IN.jsonl").write_bytes(jsonl(line("one", prompt="a", max_tokens=2)))
    program = program.replace("localhost:8000", f"localhost:{server.port}").replace("22:00-07:00", "00:00-24:00")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["custom_id"] == "one"
