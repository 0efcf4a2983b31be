"""Many models behind one server: each answers as it does alone, in a budget that has no room for all of them."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.server.asking import ask
from tests.server.pooled import NAMES, OPENING, PROMPT, complete, pool, pool_of, states
from tests.server.running import Running, running_models, wait_until
from wavefold.cli.main import main
from wavefold.pool.folder import entries
from wavefold.pool.last_used import read_last_used
from wavefold.pool.settings import ModelSettings
from wavefold.server.engine import Engine
from wavefold.server.opening import Opening
from wavefold.server.pool import PooledModels
from wavefold.system import rss_bytes


def test_each_model_answers_as_it_does_alone_though_one_is_in_memory_at_a_time(
    server: Running, alone: dict[str, str]
) -> None:
    for name in (*NAMES, *NAMES):
        assert complete(server, name) == alone[name]
        assert [one for one, state in states(server).items() if state == "loaded"] == [name]
    assert pool(server).num_loads == 6
    assert set(read_last_used(pool(server).folder)) == set(NAMES)


def test_requests_for_several_models_at_once_are_ordered_and_all_answered(
    server: Running, alone: dict[str, str]
) -> None:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(
            *(ask(server.port, "/v1/completions", {"model": NAMES[i % 3], **PROMPT}) for i in range(24))
        )

    answers = asyncio.run(all_of_them())
    assert [a.json["choices"][0]["text"] for a in answers] == [alone[NAMES[i % 3]] for i in range(24)]
    assert pool(server).num_loads == 3, "each model was loaded once for all of its requests"


def test_what_is_not_there_is_refused_by_name(server: Running) -> None:
    for body, status, message in (
        ({"model": "four", **PROMPT}, 404, "'four' is not served here; served: 'one'"),
        (PROMPT, 400, "model is missing"),
        ({"model": 3, **PROMPT}, 400, "model is missing"),
    ):
        found, _, data = server.ask("/v1/completions", body)
        assert found == status and message in json.loads(data)["error"]["message"]
    assert server.ask("/v1/completions", b"{")[0] == 400
    assert "loaded" not in states(server).values()


def test_a_damaged_model_says_why_and_others_go_on(server: Running, alone: dict[str, str]) -> None:
    path = next((pool(server).folder / "two").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    status, _, data = server.ask("/v1/completions", {"model": "two", **PROMPT})
    assert status == 503 and "model 'two' cannot be loaded" in json.loads(data)["error"]["message"]
    assert complete(server, "one") == alone["one"]
    assert states(server)["two"] == "on disk"


def test_loading_and_unloading_by_hand(server: Running) -> None:
    status, _, data = server.ask("/v1/wavefold/models/load", {"model": "two"})
    assert (status, json.loads(data)["state"]) == (200, "loaded")
    for _ in range(2):
        status, _, data = server.ask("/v1/wavefold/models/unload", {"model": "two"})
        assert (status, json.loads(data)["state"]) == (200, "on disk")
    assert server.ask("/v1/wavefold/models/load", {"model": "four"})[0] == 404
    assert server.ask("/v1/wavefold/models/unload", {})[0] == 400
    for path, words in (("machine", "no model is in memory"), ("machine?model=two", "model 'two' is not in memory")):
        status, _, data = server.ask(f"/v1/wavefold/{path}")
        assert (status, json.loads(data)["error"]["message"]) == (404, words)


def test_the_commands_load_and_unload(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    address = ["--server", f"http://127.0.0.1:{server.port}/"]
    assert main(["load", "two", *address]) == 0 and main(["unload", "two", *address]) == 0
    assert capsys.readouterr().out == "two: loaded\ntwo: on disk\n"
    assert main(["load", "four", *address]) == 2
    assert "model 'four' is not served here" in capsys.readouterr().err
    assert main(["load", "two", "--server", "http://127.0.0.1:9"]) == 2
    assert "no server answers there" in capsys.readouterr().err
    assert main(["load", "two", "--server", "file:///etc/passwd"]) == 2
    assert "expected an address such as http://" in capsys.readouterr().err


def test_a_client_that_leaves_while_its_model_is_waited_for_holds_nothing(server: Running) -> None:
    with server.open_stream(prompt="def f(", max_tokens=900, model="one") as first:
        assert first.recv(100)
        body = json.dumps({"model": "two", **PROMPT}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port)) as second:
            second.sendall(head + body)
            wait_until(lambda: pool(server).num_waiting_for("two") == 1)
            with socket.create_connection(("127.0.0.1", server.port)) as third:
                third.sendall(head + body)
                wait_until(lambda: pool(server).num_waiting_for("two") == 2)
            wait_until(lambda: pool(server).num_waiting_for("two") == 1)  # though one before it waits on
        wait_until(lambda: pool(server).num_waiting_for("two") == 0)
        assert states(server)["one"] == "loaded"
    wait_until(lambda: pool(server).resident("one").num_users == 0)  # type: ignore[union-attr]
    assert pool(server).resident("two") is None


def test_folder_and_settings_are_read_again(server: Running, alone: dict[str, str]) -> None:
    folder = pool(server).folder
    shutil.copytree(folder / "one", folder / "late")
    (folder / "pool.toml").write_text("[models.late]\npin = true\n")
    wait_until(lambda: "late" in pool(server).names)
    assert complete(server, "late") == alone["one"]
    assert complete(server, "two") == alone["two"], "in the memory beside it, with its experts streamed"
    assert states(server)["late"] == "loaded"
    (folder / "pool.toml").write_text("idle_seconds = 1\n")
    wait_until(lambda: states(server)["late"] == "on disk")
    assert complete(server, "two") == alone["two"]


def test_a_model_that_is_being_copied_is_not_offered(
    server: Running, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavefold.server.pool.LOOK_S", 0.2)
    folder = pool(server).folder
    (folder / "late").mkdir()
    files = sorted((folder / "three").iterdir(), key=lambda file: file.suffix != ".json")
    for file in files:  # config.json is there first, and weights come piece by piece
        data = file.read_bytes()
        for end in range(0, len(data), max(1, len(data) // 4)):
            with (folder / "late" / file.name).open("ab") as copy:
                copy.write(data[end : end + max(1, len(data) // 4)])
            if file.suffix == ".safetensors":
                assert "late" not in pool(server).names
                time.sleep(0.02)
    wait_until(lambda: "late" in pool(server).names)
    assert complete(server, "late") == alone["three"]


def test_a_model_whose_folder_is_gone_leaves(server: Running, alone: dict[str, str]) -> None:
    assert complete(server, "two") == alone["two"]
    shutil.rmtree(pool(server).folder / "two")
    wait_until(lambda: pool(server).resident("two") is None)
    wait_until(lambda: server.ask("/v1/completions", {"model": "two", **PROMPT})[0] == 404)
    shutil.copytree(pool(server).folder / "three", pool(server).folder / "two")
    wait_until(lambda: "two" in pool(server).names)
    assert complete(server, "two") == alone["three"]


def test_a_model_that_is_replaced_is_never_unknown(
    server: Running, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavefold.server.pool.LOOK_S", 1.0)
    folder = pool(server).folder
    assert complete(server, "two") == alone["two"]
    shutil.copytree(folder / "three", folder.parent / "new")
    (folder / "two").rename(folder.parent / "old")
    (folder.parent / "new").rename(folder / "two")
    ends, text = time.monotonic() + 30, ""
    while text != alone["three"] and time.monotonic() < ends:
        text = complete(server, "two")  # at any time it is one of both
        assert text in (alone["two"], alone["three"])
    assert text == alone["three"]
    shutil.rmtree(folder / "two")
    statuses, ends = [], time.monotonic() + 30
    while 404 not in statuses and time.monotonic() < ends:
        statuses.append(server.ask("/v1/completions", {"model": "two", **PROMPT})[0])
    assert 503 in statuses and statuses[-1] == 404, "what may come back in a moment is worth another try"


def test_an_unload_amid_a_load_waits_for_it(server: Running) -> None:
    for _ in range(3):
        loading = threading.Thread(target=server.ask, args=("/v1/wavefold/models/load", {"model": "two"}))
        loading.start()
        wait_until(lambda: pool(server).resident("two") is not None)
        assert server.ask("/v1/wavefold/models/unload", {"model": "two"})[0] == 200
        assert states(server)["two"] == "on disk"
        loading.join()


def test_the_last_use_is_kept_when_a_model_leaves(server: Running) -> None:
    server.ask("/v1/wavefold/models/load", {"model": "one"})
    before = read_last_used(pool(server).folder)["one"]["last_used"]
    time.sleep(1.5)
    complete(server, "one")
    server.ask("/v1/wavefold/models/unload", {"model": "one"})
    noted = read_last_used(pool(server).folder)["one"]
    assert noted["last_used"] > before and noted["state"] == ""


def test_a_model_that_is_replaced_while_it_is_loaded_is_loaded_again(folder: Path, tmp_path: Path,
                                                                     alone: dict[str, str]) -> None:  # fmt: skip
    shutil.copytree(folder, tmp_path / "models")
    models, opening = pool_of(tmp_path / "models", 1.5), Opening.open
    begun, may_end = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        model = opening(*args)
        begun.set()
        may_end.wait()
        return model

    with running_models(models) as server, ThreadPoolExecutor(1) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Opening, "open", slow)
        first = threads.submit(server.ask, "/v1/completions", {"model": "one", **PROMPT})
        begun.wait()
        for weights in sorted((tmp_path / "models" / "two").glob("*.safetensors")):
            weights.replace(tmp_path / "models" / "one" / weights.name)
        before = models.offer.entries.get("one")
        wait_until(lambda: models.offer.entries.get("one") not in (None, before))
        may_end.set()
        assert first.result()[0] in (200, 500)  # mapped weights, or files that are gone
        wait_until(lambda: states(server).get("one") == "on disk")
        assert complete(server, "one") == alone["two"]


def test_another_model_of_the_same_size_takes_the_place_of_a_loaded_one(server: Running, alone: dict[str, str]) -> None:
    folder = pool(server).folder
    assert complete(server, "one") == alone["one"]
    for weights in sorted((folder / "two").glob("*.safetensors")):
        weights.replace(folder / "one" / weights.name)
    wait_until(lambda: states(server).get("one") == "on disk")
    assert complete(server, "one") == alone["two"]


def test_settings_of_a_model_that_is_not_there_are_told_once(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    (pool(server).folder / "pool.toml").write_text("[models.oen]\npin = true\n[models.one]\npin = true\n")
    wait_until(lambda: "[models.oen]" in caplog.text)
    wait_until(lambda: states(server)["one"] == "on disk" and pool(server).offer.settings.of("one").pin)
    assert caplog.text.count("there is no such model") == 1 and "[models.one]" not in caplog.text


def test_what_does_not_fit_beside_pinned_models_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "models")
    (tmp_path / "models" / "pool.toml").write_text("[models.one]\npin = true\n")
    with running_models(pool_of(tmp_path / "models", 1.05)) as server:
        complete(server, "one")
        status, _, data = server.ask("/v1/completions", {"model": "two", **PROMPT})
        assert status == 503 and "are not pinned" in json.loads(data)["error"]["message"]


def test_what_is_preloaded_is_there_before_anybody_asks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "models")
    (tmp_path / "models" / "pool.toml").write_text("[models.two]\npreload = true\n")
    with running_models(pool_of(tmp_path / "models", 2.5)) as server:
        wait_until(lambda: states(server)["two"] == "loaded")
        assert pool(server).resident("two").num_users == 0  # type: ignore[union-attr]


def test_a_prompt_is_found_on_disk_after_a_swap(folder: Path, tmp_path: Path) -> None:
    prompt = {"prompt": list(range(100, 800)), "max_tokens": 4, "temperature": 0}
    texts = set()
    with running_models(pool_of(folder, 1.5, cache_dir=tmp_path / "kept", batch_invariant=True)) as server:
        for name in ("one", "two", "one"):
            status, headers, data = server.ask("/v1/completions", {"model": name, **prompt})
            assert status == 200
            usage = server.line_of(headers["x-request-id"]).ends[0].usage
            if name == "one":
                texts.add(json.loads(data)["choices"][0]["text"])
        assert pool(server).num_loads == 3
    assert len(texts) == 1 and usage.disk_tokens >= 640 and usage.computed_tokens <= 60


def test_an_end_amid_an_unloading(server: Running) -> None:
    lease = pool(server).lease("one")
    asyncio.run_coroutine_threadsafe(lease.__aenter__(), server.loop).result(60)
    with ThreadPoolExecutor(1) as thread:
        unloading = thread.submit(server.ask, "/v1/wavefold/models/unload", {"model": "one"})
        wait_until(lambda: states(server)["one"] == "leaving")
        server.stop()
        assert unloading.result(60)[0] == 503


def test_what_comes_while_a_model_is_loaded_is_unloaded_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opening.open

    def slow(*args: Any) -> Any:
        time.sleep(0.3)
        return opened(*args)

    monkeypatch.setattr(Opening, "open", slow)
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(complete, server, "one")
        wait_until(lambda: states(server)["one"] == "loading")
        status, _, data = server.ask("/v1/wavefold/models/unload", {"model": "one"})
        assert (status, json.loads(data)["state"]) == (200, "on disk")
        assert loading.result(60), "its answer came first"


def test_a_server_is_well_while_a_model_leaves(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Engine.stop

    async def slow(engine: Engine) -> None:
        engine._is_stopping = True
        await asyncio.sleep(0.5)
        await stop(engine)

    monkeypatch.setattr(Engine, "stop", slow)
    complete(server, "one")
    with ThreadPoolExecutor(1) as thread:
        unloading = thread.submit(server.ask, "/v1/wavefold/models/unload", {"model": "one"})
        wait_until(lambda: states(server)["one"] == "leaving")
        assert server.ask("/health")[0] == 200
        status, _, data = server.ask("/v1/wavefold/machine?model=one")
        assert status == 404 and "model 'one' is not in memory" in json.loads(data)["error"]["message"]
        assert unloading.result(60)[0] == 200


def test_needs_that_cannot_be_told_are_said_and_others_go_on(
    server: Running, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = Opening.needs

    def failing(opening: Opening, entry: Any, settings: ModelSettings) -> Any:
        if entry.name == "two":
            raise OverflowError("too large")
        return needs(opening, entry, settings)

    monkeypatch.setattr(Opening, "needs", failing)
    status, _, data = server.ask("/v1/completions", {"model": "two", **PROMPT})
    assert status == 503 and "OverflowError: too large" in json.loads(data)["error"]["message"]
    assert complete(server, "one") == alone["one"]


@pytest.mark.parametrize("width", [1, 512, 513, 1024])
def test_every_width_that_is_allowed_has_needs(folder: Path, width: int) -> None:
    needs = Opening(**OPENING).needs(entries(folder)["one"], ModelSettings(width=width))
    assert 0 < needs.least < needs.whole < 16 << 30


def test_counts_of_a_model_that_leaves_are_kept(server: Running) -> None:
    def passes() -> float:
        lines = server.ask("/metrics")[2].decode().splitlines()
        return next(float(one.split()[1]) for one in lines if one.startswith("wavefold_engine_steps_total "))

    complete(server, "one")
    before = passes()
    server.ask("/v1/wavefold/models/unload", {"model": "one"})
    assert passes() == before > 0
    complete(server, "two")
    assert passes() > before


def test_a_model_that_is_removed_leaves(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.server.pool.LOOK_S", 0.2)
    (pool(server).folder / "pool.toml").write_text("[models.one]\npin = true\n")
    complete(server, "one")
    shutil.rmtree(pool(server).folder / "one")
    wait_until(lambda: pool(server).resident("one") is None)
    assert "one" not in states(server)
    for path in "load", "unload":
        wait_until(lambda path=path: server.ask(f"/v1/wavefold/models/{path}", {"model": "one"})[0] == 404)  # type: ignore[misc]


def test_broken_settings_are_told_once_and_models_are_offered(
    server: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavefold.server.pool.LOOK_S", 0.1)
    folder = pool(server).folder
    (folder / "pool.toml").write_text("x = [")
    shutil.copytree(folder / "one", folder / "late")
    wait_until(lambda: "late" in pool(server).names)
    time.sleep(0.5)
    assert caplog.text.count("is no TOML") == 1


def test_pages_of_models_say_that_there_are_more(server: Running) -> None:
    def page(query: str) -> tuple[list[str], bool]:
        values = json.loads(server.ask(f"/v1/models?{query}", None, {"anthropic-version": "2023-06-01"})[2])
        return [one["id"] for one in values["data"]], values["has_more"]

    assert page("limit=2") == (["one", "three"], True)
    assert page("limit=2&after_id=three") == (["two"], False)
    assert page("limit=1&before_id=two") == (["three"], True)
    assert page("limit=3") == (["one", "three", "two"], False)


def test_memory_comes_back_when_a_model_leaves(folder: Path) -> None:
    with running_models(pool_of(folder, 3.5)) as server:
        complete(server, "one")
        server.ask("/v1/wavefold/models/unload", {"model": "one"})
        before = rss_bytes()
        for name in ("one", "two", "one"):
            complete(server, name)
            server.ask("/v1/wavefold/models/unload", {"model": name})
        assert rss_bytes() - before < 30 << 20


def test_too_little_memory_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"memory = 0\.00 GiB is not enough; expected more than"):
        PooledModels(folder, 1 << 20, Opening(**OPENING))


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no models; expected folders"):
        PooledModels(tmp_path, 1 << 30, Opening(**OPENING))


def test_a_second_signal_ends_it_while_a_model_is_being_loaded(folder: Path, tmp_path: Path) -> None:
    """Which takes ten minutes here, and cannot be interrupted."""
    shutil.copytree(folder, tmp_path / "models")
    (tmp_path / "models" / "pool.toml").write_text("[models.one]\npreload = true\n")
    slow = ("import time, wavefold.server.opening as opening, wavefold.cli.main as cli\n"
            "opening.Opening.open = lambda *args: (print('loads', flush=True), time.sleep(600))\n"
            f"cli.main(['serve', '--models', {str(tmp_path / 'models')!r}, '--port', '0'])")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "loads" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
