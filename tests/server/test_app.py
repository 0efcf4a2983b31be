"""The server's own parts, with a protocol of a few lines: paths, errors, limits, clients that leave, the end."""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.running import Running, frames, read_all, running, wait_until
from wavefold import LLM
from wavefold.server.bound import Bound
from wavefold.server.connection import Connection
from wavefold.server.keys import Keys, new_key
from wavefold.server.run import SEND_BUFFER, listen

IDS = {"model": "wavefold", "ids": [0, 5, 6], "max_tokens": 8}
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def model() -> Iterator[LLM]:
    with LLM(width=4, cache_tokens=8192, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(model: LLM) -> Iterator[Running]:
    with running(model, max_body=100_000, max_queue=8) as server:
        yield server
        assert model.runner is not None
    assert model.runner.idle


def error_of(data: bytes) -> dict[str, Any]:
    return json.loads(data)["error"]


class TestAnswers:
    def test_whole_and_streamed_are_those_of_generate(self, server: Running, model: LLM) -> None:
        from wavefold import Sampling

        [expected] = model.generate([IDS["ids"]], Sampling(8, logit_bias={1: -100}))
        status, headers, data = server.ask(PATH, IDS)
        assert (status, json.loads(data)) == (200, {"ids": [list(expected.tokens)], "ends": [["length", 3, 8]]})
        assert headers["x-request-id"] == headers["request-id"] and headers["content-type"] == "application/json"
        status, headers, data = server.ask(PATH, {**IDS, "stream": True})
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        parts = frames(data)
        assert parts[0]["begun"][:2] == [0, 3] and parts[-1] == {"ends": [["length", 3, 8]]}
        assert [one for part in parts for one in part.get("ids", ())] == list(expected.tokens)

    def test_several_parts_come_together(self, server: Running) -> None:
        status, _, data = server.ask(PATH, {**IDS, "n": 3})
        values = json.loads(data)
        assert status == 200 and values["ids"][0] == values["ids"][1] == values["ids"][2]
        assert values["ends"] == [["length", 3, 8]] * 3

    def test_a_protocol_ends_an_answer(self, server: Running) -> None:
        """And it is counted as one that stopped."""

        def count(reason: str) -> float:
            return server.served.metrics._answers.labels(reason)._value.get()

        before = count("stop"), count("interrupted")
        _, _, data = server.ask(PATH, {**IDS, "max_tokens": 2000, "stop_after": 5})
        [[reason, _, num_tokens]] = json.loads(data)["ends"]
        assert reason == "stop" and 5 <= num_tokens < 100
        wait_until(lambda: server.one.running.num_open == 0)
        wait_until(lambda: (count("stop"), count("interrupted")) != before)
        assert (count("stop"), count("interrupted")) == (before[0] + 1, before[1])

    def test_progress_for_clients_that_ask(self, server: Running) -> None:
        """Beside an answer that goes on, a prompt is read in chunks of 256."""
        with server.open_stream(ids=[7], max_tokens=8000) as other:
            other.recv(100)
            body = {**IDS, "ids": [9, 8, 7] * 400, "stream": True}
            _, _, data = server.ask(PATH, body, {"X-Wavefold-Progress": "1"})
            counts = [part for part in data.split(b"\n\n") if part.startswith(b": progress")]
            assert len(counts) >= 3 and all(part.endswith(b"/1200") for part in counts)
            _, _, data = server.ask(PATH, {**body, "ids": [8, 7, 9] * 400})
            assert b": progress" not in data

    def test_keep_alives_while_nothing_comes(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wavefold.server.answers.KEEP_ALIVE_S", 0.02)
        others = [server.open_stream(ids=[7], max_tokens=200) for _ in range(4)]
        try:
            wait_until(lambda: server.one.running.num_open == 4)
            _, _, data = server.ask(PATH, {**IDS, "stream": True})
            assert data.startswith(b": keep-alive\n\n") and frames(data)[-1] == {"ends": [["length", 3, 8]]}
        finally:
            for other in others:
                other.close()


class TestErrors:
    @pytest.mark.parametrize(("path", "body", "status", "message"), [
        (PATH, b"{", 400, "Invalid JSON"), (PATH, {**IDS, "model": "../etc/passwd"}, 404, "is not served here"),
        (PATH, {**IDS, "ids": [5000]}, 400, "token 5000 is not allowed"),
        (PATH, b"x" * 200_000, 413, "100,000 bytes, the most that is read (--max-body)"),
        ("/v1/batches", None, 404, "there is no /v1/batches; start the server with --jobs DIR"),
        ("/v1/files/file-1/content", None, 404, "start the server with --jobs DIR"),
        ("/v1/responses/resp_1", None, 404, "there is no /v1/responses/resp_1: nothing is stored here; send the whole"),
        ("/v1/responses/resp_1/cancel", b"", 404, "nothing is stored here"),
        (PATH, b"", 400, "Invalid JSON"), ("/v1/nothing", None, 404, "there is no /v1/nothing"),
        (PATH, None, 405, "takes no GET; expected POST"),
        ("/v1/models/../../etc/passwd", None, 404, "is not served here"),
        (PATH, {**IDS, "max_tokens": 9000}, 400, "and the pool has 64"),
    ])  # fmt: skip
    def test_each_has_its_status_and_says_why(
        self, server: Running, path: str, body: Any, status: int, message: str
    ) -> None:  # fmt: skip
        found, headers, data = server.ask(path, body)
        assert found == status and message in error_of(data)["message"]
        assert headers["x-request-id"].startswith("req_")
        assert status != 405 or headers["allow"] == "POST"

    def test_a_fault_is_500_without_its_details(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.server.scripted.IdsWriter._whole", lambda self: 1 / 0)
        status, headers, data = server.ask(PATH, IDS)
        assert status == 500 and headers["x-request-id"] in error_of(data)["message"] and b"Zero" not in data
        monkeypatch.undo()
        assert server.ask(PATH, IDS)[0] == 200

    def test_a_fault_amid_a_stream_is_told_in_it(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.server.scripted.IdsWriter.ended", lambda self, index=0: 1 / 0)
        status, _, data = server.ask(PATH, {**IDS, "max_tokens": 500, "stream": True})
        assert status in (200, 500)  # 500 where the first tokens come with the beginning
        assert b"an error of the server" in data and b"Zero" not in data
        wait_until(lambda: server.one.running.num_open == 0)

    def test_a_full_queue_is_429_with_a_time(self, server: Running) -> None:
        others = [server.open_stream(ids=[7], max_tokens=4000) for _ in range(12)]
        try:
            wait_until(lambda: server.one.running.num_open == 12)
            status, headers, data = server.ask(PATH, IDS)
            assert status == 429 and 1 <= int(headers["retry-after"]) <= 60
            assert "requests run or wait, as many as may" in error_of(data)["message"]
        finally:
            for other in others:
                other.close()
        wait_until(lambda: server.one.running.num_open == 0)
        assert server.ask(PATH, IDS)[0] == 200


class TestClients:
    def test_one_that_leaves_ends_its_answer(self, server: Running) -> None:
        """A stream, a whole answer, and one that waits; what was read of the prompt stays cached."""
        ids = [11, 12, 13] * 300
        stream = server.open_stream(ids=ids, max_tokens=5000)
        while b"ids" not in stream.recv(65536):
            pass
        whole = server.open_stream(ids=[7], max_tokens=5000, stream=False)
        waiting = [server.open_stream(ids=[7], max_tokens=5000) for _ in range(4)]
        wait_until(lambda: server.one.running.num_open == 6)
        for connection in (waiting[-1], stream, whole, *waiting[:-1]):
            connection.close()
        wait_until(lambda: server.one.running.num_open == 0)
        _, _, data = server.ask(PATH, {**IDS, "ids": ids, "stream": True})
        assert frames(data)[0]["begun"][2] >= 512

    def test_a_slow_reader_disturbs_nobody(self, server: Running) -> None:
        """It takes its answer later, whole; meanwhile its tokens wait as ids, and others are answered."""
        slow = server.connect()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        body = json.dumps({**IDS, "ids": [7], "max_tokens": 400, "stream": True, "pad": 1000}).encode()
        slow.sendall(b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(body)))
        slow.sendall(body)
        wait_until(lambda: server.one.running.num_open == 1)
        assert server.ask(PATH, IDS)[0] == 200
        wait_until(lambda: server.one.running.num_open == 0)
        data = read_all(slow)
        slow.close()
        ids = [one for part in data.split(b"data: ") if part.startswith(b'{"index"')
               for one in json.loads(part.partition(b"}")[0] + b"}")["ids"]]  # fmt: skip
        assert len(ids) == 400

    def test_one_that_never_reads_is_cut_off(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Connection, "stall_s", 0.2)
        with server.connect() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            body = json.dumps({**IDS, "ids": [7], "max_tokens": 4000, "stream": True, "pad": 1000}).encode()
            head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(body))
            stuck.sendall(head + body)
            wait_until(lambda: server.one.running.num_open == 1)
            wait_until(lambda: not server.server.server_state.connections)
            wait_until(lambda: stuck.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)

    def test_one_that_resets_after_its_answer_leaves_no_clock(
        self, server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """uvicorn rings for an idle connection that is lost already, and a clock for what is not read began then."""
        rung: list[int] = []
        idle = Connection.timeout_keep_alive_handler
        monkeypatch.setattr(Connection, "timeout_keep_alive_handler", lambda self: (rung.append(1), idle(self)))
        monkeypatch.setattr(Connection, "stall_s", 0.1)
        monkeypatch.setattr(server.server.config, "timeout_keep_alive", 0.1)
        with server.connect() as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            data = b""
            while not data.endswith(b"}"):
                data += client.recv(1000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: bool(rung))
        time.sleep(0.3)
        assert "Exception in callback" not in caplog.text

    def test_what_a_client_does_not_read_is_felt_soon(self) -> None:
        """The system alone would take megabytes of it."""
        with listen("127.0.0.1", 0) as listening, socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(listening.getsockname())
            connection, _ = listening.accept()
            with connection:
                connection.setblocking(False)
                taken = 0
                with pytest.raises(BlockingIOError):
                    while taken < 2**21:
                        taken += connection.send(bytes(1000))
        assert 64 * 1024 < taken < 3 * SEND_BUFFER

    @pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "])
    def test_a_head_that_does_not_come(self, server: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
        monkeypatch.setattr(Connection, "request_s", 0.2)
        with server.connect() as slow:
            slow.sendall(sent)
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                while slow.recv(1000):
                    pass
                raise ConnectionResetError  # closed, which is as good
            assert time.monotonic() - began < 10

    def test_a_body_that_does_not_come(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server.served.bodies, "_seconds", 0.2)
        with server.connect() as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n{")
            data = slow.recv(65536)
            assert data.startswith(b"HTTP/1.1 408 ") and b"connection: close" in data
        assert server.served.bodies.num_bytes == 0

    def test_bodies_leave_nothing(self, server: Running) -> None:
        for _ in range(3):
            server.ask(PATH, b" " * 99_000)
            server.ask(PATH, b" " * 150_000)
        with server.connect() as gone:
            gone.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{" + b" " * 99
            )
        wait_until(lambda: server.served.bodies.num_bytes == 0)

    def test_bodies_together_have_a_limit(self, server: Running) -> None:
        """Four of the largest may be on their way; one more is told to come again."""
        opened = [server.connect() for _ in range(5)]
        try:
            for connection in opened:
                head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999\r\n\r\n"
                connection.sendall(head + b" " * 90_000)
            wait_until(lambda: server.served.bodies.num_bytes >= 360_000)
            for connection in opened:
                connection.sendall(b" " * 9_999)
            statuses = sorted(connection.recv(1000).split()[1] for connection in opened)
            assert statuses[0] == b"400" and statuses[-1] == b"503"  # no JSON, and no room
        finally:
            for connection in opened:
                connection.close()
        wait_until(lambda: server.served.bodies.num_bytes == 0)


class TestWho:
    def test_a_new_key_begins_a_line(self, tmp_path: Path) -> None:
        """Editors leave a last line without its end; the key would be part of its comment."""
        file = tmp_path / "keys"
        first = new_key(file)
        file.write_text(f"{file.read_text().strip()}  # alice")
        second = new_key(file)
        keys = Keys.read(file)
        assert all(keys.allow({"x-api-key": key}) for key in (first, second, new_key(file))[:2])
        assert len(file.read_text().splitlines()) == 3

    def test_keys(self, model: LLM, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        first, second = new_key(file), new_key(file)
        assert first not in file.read_text() and file.stat().st_mode & 0o77 == 0
        with running(model, keys=Keys.read(file)) as server:
            for headers, status in (
                ({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"x-api-key": ""}, 401),
                ({"authorization": f"Basic {first}"}, 401), ({"authorization": f"Bearer {first}"}, 200),
                ({"authorization": f"bearer {second}"}, 200), ({"x-api-key": second}, 200),
                ({"x-api-key": first + "a"}, 401), ({"authorization": "Bearer \xff"}, 401),
                ({"authorization": f"Bearer {first}", "x-api-key": "none"}, 200),
                ({"authorization": "Bearer none", "x-api-key": second}, 200),
                ({"authorization": "Bearer none", "x-api-key": "none"}, 401),
            ):  # fmt: skip
                found, answered, data = server.ask(PATH, IDS, headers)
                assert (found, headers) == (status, headers)
                assert status == 200 or error_of(data)["code"] == "invalid_api_key"
                assert status == 200 or answered["connection"] == "close"
            assert server.ask("/v1/models")[0] == server.ask("/metrics")[0] == 401
            assert server.ask("/health")[0] == server.ask("/docs")[0] == server.ask("/openapi.json")[0] == 200

    @pytest.mark.parametrize(("text", "message"), [
        ("wf-abc", "line 1 is not allowed"), ("", "holds no key"), ("\n# none\n", "holds no key"),
        (f"sha256:{'0' * 64}\nsha256:12\n", "line 2 is not allowed"),
    ])  # fmt: skip
    def test_files_of_keys_that_are_none(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "keys").write_text(text)
        with pytest.raises(ValueError, match=message) as raised:
            Keys.read(tmp_path / "keys")
        assert "abc" not in str(raised.value)

    @pytest.mark.parametrize(("headers", "status"), [
        ({"host": "evil.example"}, 403), ({"host": "127.0.0.1:1"}, 200), ({"host": "[::1]:8000"}, 200),
        ({"host": "localhost"}, 200), ({"host": ""}, 403), ({"host": "localhost.evil.example"}, 403),
        ({"host": "localhost", "origin": "http://localhost"}, 200), ({"host": "a@[b"}, 403),
        ({"host": "localhost", "origin": "http://evil.example"}, 403), ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": "http://["}, 403),
    ])  # fmt: skip
    def test_names_and_sites(self, server: Running, headers: dict[str, str], status: int) -> None:
        found, answered, _ = server.ask("/v1/models", None, headers)
        assert found == status and not any(name.startswith("access-control") for name in answered)

    def test_a_name_that_is_allowed(self, model: LLM) -> None:
        with running(model, hosts=("proxy.example",)) as server:
            assert server.ask("/v1/models", None, {"host": "Proxy.example"})[0] == 200

    def test_preflights_get_nothing(self, server: Running) -> None:
        headers = {"origin": "http://localhost", "host": "localhost", "access-control-request-method": "POST"}
        status, answered, _ = server.ask(PATH, None, headers, "OPTIONS")
        assert status == 405 and not any(name.startswith("access-control") for name in answered)


class TestOther:
    def test_models_in_two_shapes(self, server: Running) -> None:
        openai = json.loads(server.ask("/v1/models")[2])
        assert openai["object"] == "list" and [one["id"] for one in openai["data"]] == ["wavefold"]
        headers = {"anthropic-version": "2023-06-01"}
        anthropic = json.loads(server.ask("/v1/models", None, headers)[2])
        assert anthropic["data"][0]["type"] == "model" and anthropic["first_id"] == anthropic["last_id"] == "wavefold"
        assert json.loads(server.ask("/v1/models?after_id=wavefold", None, headers)[2])["data"] == []
        assert server.ask("/v1/models?limit=0", None, headers)[0] == 400
        assert json.loads(server.ask("/v1/models/wavefold")[2])["object"] == "model"

    def test_metrics_are_prometheus(self, server: Running) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        server.ask(PATH, IDS)
        _, headers, data = server.ask("/metrics")
        values = {sample.name: sample.value for family in text_string_to_metric_families(data.decode())
                  for sample in family.samples if not sample.labels}  # fmt: skip
        assert values["wavefold_generated_tokens_total"] >= 8 and values["wavefold_engine_steps_total"] >= 8
        assert values["wavefold_time_to_first_token_seconds_count"] >= 1 and values["wavefold_requests_waiting"] == 0
        assert "text/plain" in headers["content-type"] and b'path="/v1/completions"' in data
        assert b"nothing" not in data  # no path of anybody's own

    def test_a_line_for_each_request_without_its_text(self, server: Running) -> None:
        ids = [21, 22, 23] * 100
        for _ in range(2):
            _, headers, _ = server.ask(PATH, {**IDS, "ids": ids})
        values = server.line_of(headers["x-request-id"]).values()
        json.dumps(values)
        assert values["path"] == PATH and values["status"] == 200 and values["finish"] == "length"
        assert values["hit_in_memory"] >= 256 and values["left_chain_at"] >= 256
        assert values["hit_in_memory"] + values["hit_on_disk"] + values["computed"] == values["prompt_tokens"] == 300
        assert values["completion_tokens"] == 8 and values["first_token_s"] > 0 and "21, 22" not in str(values)

    def test_the_machine_and_a_look_inside(self, server: Running) -> None:
        server.ask(PATH, IDS)
        values = json.loads(server.ask("/v1/wavefold/machine")[2])
        assert values["tokens_per_s"] > 0 and values["memory"]["resident_bytes"] < values["memory"]["limit_bytes"]
        assert 0 < values["prefix_blocks"]["used"] <= values["prefix_blocks"]["total"] == 64
        status, _, data = server.ask("/v1/wavefold/inside", {"ids": [0, 5, 6, 7], "position": 2})
        seen = json.loads(data)
        assert status == 200 and seen["position"] == 2 and len(seen["top"]) == 10 and len(seen["layers"]) == 4
        for body, message in ((b"[]", "no JSON object"), ({"ids": [0], "position": 5}, "position"), (b"{", "")):
            status, _, data = server.ask("/v1/wavefold/inside", body)
            assert status == 400 and message in error_of(data)["message"]

    def test_the_bound_is_measured_once_and_when_nothing_runs(
        self, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        sizes: list[int] = []
        bound = Bound(server.one.llm.model, is_streamed=False)
        monkeypatch.setattr("wavefold.server.bound.memory_read_rate", lambda size: sizes.append(size) or 1e9)
        monkeypatch.setattr(server.one, "bound", bound)

        def asked() -> Any:
            return json.loads(server.ask("/v1/wavefold/machine")[2])

        with server.open_stream(PATH, ids=[7], max_tokens=6000):
            wait_until(lambda: server.one.running.num_open == 1)
            assert asked()["bound_tokens_per_s"] is None and not sizes
        wait_until(lambda: server.one.running.num_open == 0)
        values = [asked() for _ in range(2)]
        assert sizes == [bound._num_bytes] and 50 < values[-1]["bound_tokens_per_s"] < 1000

    def test_the_page_is_there(self, server: Running) -> None:
        _, headers, data = server.ask("/")
        assert b"<!doctype html>" in data.lower() and "script-src 'self'" in headers["content-security-policy"]
        assert server.ask("/page/main.js")[0] == 200 and server.ask("/page/nothing.js")[0] == 404

    def test_openapi_and_docs(self, server: Running) -> None:
        described = json.loads(server.ask("/openapi.json")[2])
        assert described["openapi"].startswith("3.1") and PATH in described["paths"]
        _, headers, page = server.ask("/docs")
        assert b"max_tokens" in page and "default-src 'none'" in headers["content-security-policy"]
        assert b"http:" not in page and b"https:" not in page and b"<script" not in page


class TestEnd:
    def test_what_runs_may_end_and_then_is_told_why(self, model: LLM) -> None:
        with running(model, drain_s=1.0) as server:
            short = server.open_stream(ids=[7], max_tokens=30)
            long = server.open_stream(ids=[7], max_tokens=8000)
            whole = server.open_stream(ids=[7], max_tokens=8000, stream=False)
            kept, half = server.connect(), server.connect()
            half.sendall(b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n{" % PATH.encode())
            wait_until(lambda: server.one.running.num_open >= 2 and server.served.bodies.num_bytes == 1)
            began = time.monotonic()
            server.server.should_exit = True
            wait_until(lambda: server.served.is_draining)
            assert kept.recv(10) == b""  # an idle connection is closed at once
            assert b'"length"' in read_all(short)
            assert b"the server is shutting down" in (end := read_all(long)) and end.endswith(b"0\r\n\r\n")
            assert read_all(whole).startswith(b"HTTP/1.1 503 ")
            told = read_all(half)  # its body has not come
            assert told.startswith(b"HTTP/1.1 503 ") and b"x-request-id" in told and b'"overloaded"' in told
            server.thread.join(30)
            assert not server.thread.is_alive() and 0.8 < time.monotonic() - began < 8
            with pytest.raises(OSError):
                server.connect()
            for connection in (short, long, whole, kept, half):
                connection.close()
        assert model.runner.idle
