"""Adapters of the models of a pool: asked for beside their base, added by copying, in the one budget."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import write_adapter
from tests.server.asking import ask
from tests.server.pooled import PROMPT, complete, pool, pool_of, states
from tests.server.running import Running, running_models, wait_until
from wavefold import LLM, ModelConfig, Sampling
from wavefold.pool.last_used import read_last_used


def test_adapters_are_asked_for_beside_their_base(server: Running, alone: dict[str, str]) -> None:
    """Each answers as it does through `LLM`; they are added by copying, replaced, and taken away."""
    folder, config = pool(server).folder, ModelConfig.from_file(pool(server).folder / "one")
    with LLM(folder / "one", threads=1) as llm:
        texts = []
        for seed in range(3):
            llm.load_adapter("a", write_adapter(folder.parent / f"a{seed}", config, seed))
            sampling = Sampling(max_tokens=6, temperature=0)
            texts.append(llm.generate([PROMPT["prompt"]], sampling, adapter="a")[0].text)
    assert len({*texts, alone["one"]}) == 4
    for seed, name in enumerate(("cron", "dates")):
        write_adapter(folder / name, config, seed, base_model_name_or_path="somebody/one")
    wait_until(lambda: {"one:cron", "one:dates"} <= set(pool(server).names))

    async def together() -> list[Any]:
        names = ["one", "one:cron", "one:dates"] * 4
        return await asyncio.gather(*(ask(server.port, "/v1/completions", {"model": n, **PROMPT}) for n in names))

    answers = [answer.json for answer in asyncio.run(together())]
    assert [answer["choices"][0]["text"] for answer in answers] == [alone["one"], *texts[:2]] * 4
    assert [answer["model"] for answer in answers[:3]] == ["one", "one:cron", "one:dates"]
    assert pool(server).num_loads == 1 and states(server)["one:cron"] == "loaded"
    notes = read_last_used(folder)
    assert all(notes[name]["last_used"] and notes[name]["state"] == "loaded" for name in ("one:cron", "one:dates"))
    before = pool(server).offer.entries["one:cron"]
    shutil.rmtree(folder / "cron")
    write_adapter(folder / "cron", config, 2, rank=5, base_model_name_or_path="somebody/one")
    wait_until(lambda: pool(server).offer.entries.get("one:cron", before) != before)
    assert complete(server, "one:cron") != texts[0]
    assert server.ask("/v1/wavefold/models/unload", {"model": "one:dates"})[0] == 200
    assert states(server)["one:dates"] == "on disk" and states(server)["one"] == "loaded"
    assert read_last_used(folder)["one:dates"]["state"] == ""
    assert complete(server, "one:dates") == texts[1]


def test_adapters_are_in_the_budget(server: Running, alone: dict[str, str]) -> None:
    """Room is left for one and a half beside `one`; a second takes the place of the first, a large one has none."""
    folder, config = pool(server).folder, ModelConfig.from_file(pool(server).folder / "one")
    for seed, name in enumerate(("cron", "dates")):
        write_adapter(folder / name, config, seed, rank=8, base_model_name_or_path="one")
    write_adapter(folder / "large", config, 2, rank=64, base_model_name_or_path="one")
    wait_until(lambda: {"one:cron", "one:dates", "one:large"} <= set(pool(server).names))
    assert complete(server, "one") == alone["one"]
    size = pool(server).offer.entries["one:cron"].num_bytes
    pool(server).room.num_bytes -= pool(server).room.free - int(1.5 * size)
    texts = {name: complete(server, name) for name in ("one:cron", "one:dates")}
    resident = pool(server).resident("one")
    assert resident is not None and resident.adapter_bytes == size
    assert states(server)["one:cron"] == "on disk" and states(server)["one:dates"] == "loaded"
    status, _, data = server.ask("/v1/completions", {"model": "one:large", **PROMPT})
    assert status == 503 and "it needs" in json.loads(data)["error"]["message"]
    assert states(server)["one:dates"] == "loaded"  # nothing has left for what has no room
    write_adapter(folder / ".new", config, 3, rank=8, base_model_name_or_path="one")  # of the same size
    (folder / ".new" / "adapter_model.safetensors").replace(folder / "dates" / "adapter_model.safetensors")
    wait_until(lambda: states(server).get("one:dates") == "on disk")
    assert complete(server, "one:dates") != texts.pop("one:dates") and resident.adapter_bytes == size
    assert {name: complete(server, name) for name in texts} == texts and complete(server, "one") == alone["one"]
    server.ask("/v1/wavefold/models/unload", {"model": "one:cron"})
    assert resident.adapter_bytes == 0


@pytest.mark.parametrize(("models", "streams"), [(0.55, True), (0.9, False)])
def test_a_base_that_has_all_the_room_gives_its_adapters_some(
    folder: Path, tmp_path: Path, alone: dict[str, str], models: float, streams: bool
) -> None:
    """Of the slots of routed experts that are streamed, or what it has no use for."""
    shutil.copytree(folder, tmp_path / "models")
    config = ModelConfig.from_file(folder / "one")
    write_adapter(tmp_path / "models" / "cron", config, 0, rank=8, base_model_name_or_path="one")
    with running_models(pool_of(tmp_path / "models", models)) as server:
        assert complete(server, "one") == alone["one"] and pool(server).room.free >= 0
        assert (pool(server)._places["one"].streamed is not None) == streams
        assert complete(server, "one:cron") != alone["one"]
        assert complete(server, "one") == alone["one"]


def test_an_adapter_waits_for_what_is_in_use(server: Running) -> None:
    """As long as a model would; then it is told to try again, which is no lasting fault."""
    folder, config = pool(server).folder, ModelConfig.from_file(pool(server).folder / "one")
    (folder / "pool.toml").write_text("max_wait_seconds = 0.5\n")
    for seed, name in enumerate(("cron", "dates")):
        write_adapter(folder / name, config, seed, rank=8, base_model_name_or_path="one")
    wait_until(lambda: {"one:cron", "one:dates"} <= set(pool(server).names))
    wait_until(lambda: pool(server).offer.settings.max_wait_seconds == 0.5)
    complete(server, "one:cron")
    pool(server).room.num_bytes -= pool(server).room.free
    model = next(iter(pool(server).loaded))
    with model.through("one:cron").in_use():
        status, _, data = server.ask("/v1/completions", {"model": "one:dates", **PROMPT})
        assert status == 503 and json.loads(data)["error"]["code"] == "overloaded"
    assert complete(server, "one:dates") and states(server)["one:cron"] == "on disk"


def test_a_small_adapter_does_not_wait_for_a_large_one(server: Running) -> None:
    """Which waits for what is in use."""
    folder, config = pool(server).folder, ModelConfig.from_file(pool(server).folder / "one")
    for name, rank in (("cron", 8), ("dates", 8), ("units", 1)):
        write_adapter(folder / name, config, 0, rank=rank, base_model_name_or_path="one")
    wait_until(lambda: {"one:cron", "one:dates", "one:units"} <= set(pool(server).names))
    complete(server, "one:cron")
    pool(server).room.num_bytes -= pool(server).room.free - pool(server).offer.entries["one:units"].num_bytes
    model = next(iter(pool(server).loaded))

    async def both() -> tuple[Any, Any]:
        large = asyncio.ensure_future(ask(server.port, "/v1/completions", {"model": "one:dates", **PROMPT}))
        while not pool(server).adapters.num_waiting:
            await asyncio.sleep(0.01)
        small = await ask(server.port, "/v1/completions", {"model": "one:units", **PROMPT})
        assert not large.done()
        using.close()
        return small, await large

    with contextlib.ExitStack() as using:
        using.enter_context(model.through("one:cron").in_use())
        assert [answer.status for answer in asyncio.run(both())] == [200, 200]


def test_a_model_that_nobody_uses_leaves_for_an_adapter(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "models")
    with running_models(pool_of(tmp_path / "models", 2.5)) as server:
        for name in ("two", "one"):
            complete(server, name)
        config = ModelConfig.from_file(folder / "one")
        write_adapter(tmp_path / "models" / "cron", config, 0, rank=8, base_model_name_or_path="one")
        wait_until(lambda: "one:cron" in pool(server).names)
        wait_until(lambda: pool(server).resident("two").num_users == 0)  # type: ignore[union-attr]
        pool(server).room.num_bytes -= pool(server).room.free
        complete(server, "one:cron")
        assert states(server)["two"] == "on disk" and states(server)["one:cron"] == "loaded"


def test_an_adapter_whose_base_is_being_copied_is_not_offered(server: Running) -> None:
    """The folder has both, and two looks have found the same of the adapter alone."""
    folder = pool(server).folder
    write_adapter(folder / "cron", ModelConfig.from_file(folder / "one"), 0, base_model_name_or_path="one")
    wait_until(lambda: "one:cron" in pool(server).names)
    offered = {name: entry for name, entry in pool(server).offer.entries.items() if name != "one"}
    server.loop.call_soon_threadsafe(setattr, pool(server).offer, "entries", offered)
    wait_until(lambda: "one" not in pool(server).names)
    status, _, data = server.ask("/v1/completions", {"model": "one:cron", **PROMPT})
    assert status == 404 and "its base 'one': is not there" in json.loads(data)["error"]["message"]
    wait_until(lambda: "one:cron" in pool(server).names)


def test_an_adapter_of_another_model_is_refused_and_its_base_goes_on(server: Running, alone: dict[str, str]) -> None:
    folder = pool(server).folder
    other = ModelConfig.preset("nano").cut(2).replace(q_lora_rank=128)
    write_adapter(folder / "odd", other, 0, base_model_name_or_path="one")
    wait_until(lambda: "one:odd" in pool(server).names)
    status, _, data = server.ask("/v1/completions", {"model": "one:odd", **PROMPT})
    assert status == 503 and "adapter 'one:odd' cannot be loaded" in json.loads(data)["error"]["message"]
    assert complete(server, "one") == alone["one"]
    wait_until(lambda: pool(server).resident("one").num_users == 0)  # type: ignore[union-attr]
