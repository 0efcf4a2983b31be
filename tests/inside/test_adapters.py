"""A look through an adapter: its row is that of the adapter's answers and of merged weights, and is not the base's.

Two oracles that share nothing with a look: log probabilities that the server gave with the answer, and the base with
the adapter merged into its weights, in exact float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters import write_adapter
from tests.server.running import Running, running_models
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import LLM, Sampling, ops
from wavefold.checkpoint import load
from wavefold.checkpoint.adapter import read_adapter
from wavefold.checkpoint.merge import merge
from wavefold.cli.main import main
from wavefold.inside import Seen, inside_answer, look, look_at
from wavefold.locate import DEFAULT_MODEL
from wavefold.ops import native
from wavefold.server.opening import Opening
from wavefold.server.pool import PooledModels

native_only = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
QUESTION = [{"role": "user", "content": "Wednesday the 5th of May, 2021"}]
CONFIG = SMALL_WITH_TEXT.replace(
    index_topk=64, o_lora_rank=128, num_nextn_predict_layers=1, compress_ratios=(0, 4, 128, 0)
)
IDS = torch.randint(0, 250, (300,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("base") / "base", CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "one", CONFIG, 1, routed=True)


def farthest(ours: Seen, theirs: Seen) -> float:
    """The largest difference of a mass, a weight or a probability; infinite where other experts or tokens were best."""
    if [token for token, _ in ours.top] != [token for token, _ in theirs.top]:
        return float("inf")
    found = [abs(a - b) for (_, a), (_, b) in zip(ours.top, theirs.top, strict=True)]
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        if not torch.equal(our.experts, their.experts):
            return float("inf")
        pairs = [(our.window, their.window), (our.weights, their.weights)]
        if our.entries is not None and their.entries is not None:
            pairs.append((our.entries.mass, their.entries.mass))
        found += [float((a - b).abs().max()) for a, b in pairs if len(a)] + [abs(our.sink - their.sink)]
    return max(found)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("position", [3, 299])
def test_it_is_a_look_at_merged_weights(base: Path, folder: Path, position: int, backend: str) -> None:
    if backend == "auto" and not native.available():
        pytest.skip("the CPU kernels are not built")
    adapter = read_adapter(folder, CONFIG)
    with ops.using(backend=backend):
        model, merged = load(base, "exact"), load(base, "exact")
        merge(merged, adapter, rounded=False)
        ours, theirs = look_at(model, IDS, position, adapter=adapter), look_at(merged, IDS, position)
        assert farthest(ours, theirs) < 1e-4
        assert farthest(look_at(model, IDS, position), theirs) > 1e-2, "the adapter makes no difference"
    assert ours.guess is not None and theirs.guess is not None  # of the base's module, from the adapter's streams
    assert (ours.guess.token, ours.guess.probability) == pytest.approx(
        (theirs.guess.token, theirs.guess.probability), abs=1e-4
    )


@native_only
def test_what_is_cached_is_used_of_its_own_adapter_alone(base: Path, folder: Path) -> None:
    with ops.using(backend="auto"):
        settings = {"batch_invariant": True, "threads": 1, "snapshot_every": 128, "adapters": {"one": folder}}
        with LLM(base, prefix_cache=False, **settings) as plain:
            expected = look(plain, IDS, 290, adapter="one")
        with LLM(base, **settings) as llm:
            once = Sampling(max_tokens=1, temperature=0)
            llm.generate([IDS], once)
            assert look(llm, IDS, 290).hit_tokens > 0
            assert look(llm, IDS, 290, adapter="one").hit_tokens == 0, "rows of the base were taken for the adapter's"
            llm.generate([IDS], once, adapter="one")
            seen = look(llm, IDS, 290, adapter="one")
    assert seen.hit_tokens > 0 and farthest(seen, expected) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    opening = Opening(arithmetic="released", width=2, cache_tokens=2048, settings={"threads": 1})
    with running_models(PooledModels(DEFAULT_MODEL.parent, 4 << 30, opening)) as server:
        yield server


def post(server: Running, path: str, body: dict[str, Any]) -> Any:
    status, _, data = server.ask(path, body)
    assert status == 200, data
    return json.loads(data)


@native_only
@pytest.mark.parametrize("name", ["default:dates", "default:cron", "default"])
def test_the_likeliest_tokens_are_those_that_were_served(server: Running, name: str) -> None:
    wanted = {"temperature": 0, "max_tokens": 16, "logprobs": True, "top_logprobs": 5, "return_token_ids": True}
    answer = post(server, "/v1/chat/completions", {"model": name, "messages": QUESTION, **wanted})
    ids, choice = answer["prompt_token_ids"], answer["choices"][0]
    for token, served in zip(choice["token_ids"], choice["logprobs"]["content"], strict=False):
        record = post(server, "/v1/wavefold/inside", {"model": name, "ids": ids, "position": len(ids) - 1})
        expected = [exp(entry["logprob"]) for entry in served["top_logprobs"]]
        assert [one["probability"] for one in record["top"][:5]] == pytest.approx(expected, abs=0.02)
        assert record["top"][0]["id"] == token
        ids = [*ids, token]
    assert len(ids) > len(answer["prompt_token_ids"]) + 3


def test_the_machine_answers_for_an_adapters_base(server: Running) -> None:
    post(server, "/v1/completions", {"model": "default:dates", "prompt": "a", "max_tokens": 1})
    for name in ("default", "default:dates", "default:cron"):
        status, _, data = server.ask(f"/v1/wavefold/machine?model={name}")
        assert status == 200 and json.loads(data)["model"] == "default"
    status, _, data = server.ask("/v1/wavefold/machine?model=default:nothing")
    assert status == 404 and "model 'default:nothing' is not in memory" in json.loads(data)["error"]["message"]


def test_the_command_takes_a_folder(
    base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    records = [tmp_path / "with", tmp_path / "without"]
    for record, flags in zip(records, (["--adapter", str(folder)], []), strict=True):
        assert main(["inside", str(base), "-p", "def main", "--json", str(record), *flags]) == 0
    through, plain = (json.loads(record.read_text()) for record in records)
    assert "token 8 of 9: 'n', through one" in " ".join(capsys.readouterr().out.split())
    assert through["top"] != plain["top"]
    with LLM(base, prefix_cache=False, adapters={"one": folder}) as llm:
        assert inside_answer(llm, {"text": "def main"}, adapter="one") == through
        with pytest.raises(ValueError, match="adapter = 'two' is not loaded"):
            look(llm, IDS, 3, adapter="two")
