"""`bench/many_requests.py`: its own arithmetic by hand, experts by another count, a server that stands still."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.small import SMALL
from wavefold import ops
from wavefold.bench.limits import Limits
from wavefold.bench.llama_server import LlamaServer
from wavefold.bench.many_requests import Passes, StepTime, run_requests, step_amounts, step_figures, waits
from wavefold.bench.many_requests_worker import requests_of
from wavefold.bench.speed import decode_bytes
from wavefold.checkpoint import random_checkpoint, random_model
from wavefold.engine.runner import Runner
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic, native
from wavefold.plan.flops import decode_flops

CONFIG = SMALL.replace(vocab_size=100, o_lora_rank=128, max_position_embeddings=2000, n_routed_experts=8)
ROOT = Path(__file__).parents[2]


def test_waits_by_hand() -> None:
    """The first request decodes alone until 4.0; all decode from there to 7.0, where it ends."""
    times = [[1.0, 2.5, 6.0, 7.0], [4.0, 5.2, 5.5, 9.0], [3.0, 3.5, 6.5, 8.0]]
    found = waits(times, 4)
    assert found == (12 / 9, 3.0, 4.0, 3.5, pytest.approx(1.0))  # 6 to 7, 4 to 5.2 and 5.2 to 5.5
    assert waits([[2.0]], 1) == (0.5, 2.0, 2.0, None, None)
    with pytest.raises(ValueError, match="an answer of 3 tokens came; expected 4 for each request"):
        waits([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0]], 4)


def test_figures_of_a_step_by_hand() -> None:
    """Steps with prompts, with fewer requests, and the one that counted are left out."""
    steps = [
        StepTime(9.0, 9.0, 30, 1), StepTime(9.0, 9.0, 1, 1), StepTime(2.0, 1.5, 2, 2), StepTime(9.0, 9.0, 2, 2, 10),
        StepTime(4.0, 3.8, 2, 2), StepTime(3.0, 2.7, 2, 2), StepTime(9.0, 9.0, 2, 1),
    ]  # fmt: skip
    num_bytes, operations = step_amounts(CONFIG, 2, 20, True, 10)
    limits = Limits(num_bytes / 1.5, {"float32": 1.0, "bfloat16": operations})
    found = step_figures(steps, 2, CONFIG, 20, True, limits)
    assert found is not None
    assert found == (3.0, pytest.approx(0.1), 10, pytest.approx(1.5), "memory") and found.bound_share == 0.5
    limits = Limits(1e30, {"float32": 1.0, "bfloat16": operations / 2})
    found = step_figures(steps, 2, CONFIG, 20, True, limits)
    assert found is not None and (found.bound_s, found.bound_by) == (2.0, "dense")
    assert step_figures(steps, 3, CONFIG, 20, True, limits) is None
    assert step_figures(steps[:3], 2, CONFIG, 20, True, limits) is None


def test_bytes_of_a_step_are_the_weights_that_it_meets() -> None:
    """Alone those of a token; with all experts, every stored matrix once."""
    alone = CONFIG.num_experts_per_tok * CONFIG.num_hidden_layers
    assert step_amounts(CONFIG, 1, 50, True, alone) == (
        pytest.approx(decode_bytes(CONFIG, 50, True)), decode_flops(CONFIG, 50).raw,
    )  # fmt: skip
    model = random_model(CONFIG, 0, Arithmetic("released"), packed=True)
    stored = {
        name: tensor.numel() * tensor.element_size()
        for name, tensor in official_tensors(model)
        if tensor.dim() == 2 and not name.startswith(("mtp.", "embed.")) and "tid2eid" not in name
        and not name.endswith("ape")
    }  # fmt: skip
    rows = 3 * CONFIG.num_hidden_layers * model.records.kv.num_bytes
    met = CONFIG.n_routed_experts * CONFIG.num_hidden_layers
    assert step_amounts(CONFIG, 3, 0, True, met)[0] == sum(stored.values()) + rows
    of_expert = sum(size for name, size in stored.items() if "layers.1.ffn.experts.3." in name)
    fewer = step_amounts(CONFIG, 3, 0, True, met - 1)[0]
    assert fewer == sum(stored.values()) + rows - of_expert


class Clock:
    """A second passes whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_requests_run_together_and_experts_are_counted(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experts of the counted step are those that the model's routers choose for these texts in whole passes."""
    if backend == "auto" and not native.available():
        pytest.skip("the CPU kernels are not built")
    arithmetic = Arithmetic("exact", torch.bfloat16 if backend == "auto" else torch.float32)
    model = random_model(CONFIG, 3, arithmetic, packed=backend == "auto")
    with ops.using(backend=backend):  # type: ignore[arg-type]
        clock, prompts = Clock(), [[7, 8, 9], [5], [60, 61]]
        passes = Passes(model, clock)
        requests = requests_of(prompts, 8)
        times, steps = run_requests(Runner(model, 3, chunk_tokens=4), requests, passes, clock)
        assert [len(tokens) for tokens in times] == [8, 8, 8]
        # asked for a time: at the start, before and after each step, before and after its pass
        assert [step.pass_s for step in steps] == [1.0] * 8 and [step.seconds for step in steps] == [3.0] * 8
        assert times[0] == [4.0 * number for number in range(1, 9)] and times[0] == times[1] == times[2]
        assert [step.rows for step in steps] == [6] + [3] * 7 and {step.new for step in steps} == {3}
        counted = [step.experts_met for step in steps]
        assert [number for number, met in enumerate(counted) if met is not None] == [4]
        expected = experts_of_last_tokens(
            model, [[*request.prompt, *request.output[:4]] for request in requests], monkeypatch
        )
    assert counted[4] == expected
    assert CONFIG.num_experts_per_tok * CONFIG.num_hidden_layers < expected


def experts_of_last_tokens(model: Any, texts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Distinct experts of all main layers, as the routers choose them for the last token of each text."""
    chosen: list[torch.Tensor] = []
    router = type(model.layers[0].ffn.gate)
    forward = router.forward

    def watched(self: Any, *arguments: Any) -> Any:
        found = forward(self, *arguments)
        ids = next(part for part in found if not part.is_floating_point())
        chosen.append(ids.flatten(0, -2)[-1])
        return found

    monkeypatch.setattr(router, "forward", watched)
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([text]))
    monkeypatch.undo()
    layers = len(chosen) // len(texts)
    assert layers == CONFIG.num_hidden_layers
    return sum(len(torch.cat(chosen[layer::layers]).unique()) for layer in range(layers))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    script = Path(__file__).with_name("fake_llama_server.py")
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(0o755)
    return path


def state(server: LlamaServer) -> str:
    return Path(f"/proc/{server._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def server(program: Path) -> Iterator[LlamaServer]:
    with LlamaServer(str(program), Path("any.gguf"), 4, 100, 1) as server:
        yield server
    assert server._process.poll() is not None


def test_the_server_is_asked_at_once_and_stands_still_between(server: LlamaServer) -> None:
    for _ in range(2):
        deadline = time.monotonic() + 10
        while state(server) != "T":
            assert time.monotonic() < deadline
        times = server.ask([[300, 4], [2, 4, 5]], 5)
        assert [len(tokens) for tokens in times] == [5, 5] and all(tokens == sorted(tokens) for tokens in times)
        assert times[0][0] >= 0.3 and times[1][0] < times[0][0], "the second did not wait for the first"


@pytest.mark.parametrize(
    ("first", "says"), [(0, r"llama\.cpp: status 400: .*too many tokens"), (1, r"llama\.cpp: no room")]
)
def test_a_server_that_refuses_says_why(server: LlamaServer, first: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        server.ask([[first], [2]], 3)


def test_slots_are_saved_and_restored(program: Path, tmp_path: Path) -> None:
    options = "--slot-save-path", str(tmp_path)
    with LlamaServer(str(program), Path("any.gguf"), 1, 100, 1, options) as server:
        assert server.complete([50, 4, 5, 6], 1).computed == 4
        answer = server.complete([50, 4, 5, 7, 8], 1)
        assert answer.computed == 2 and answer.seconds >= 0.05
        assert server.save_slot("slot") > 0
    with LlamaServer(str(program), Path("any.gguf"), 1, 100, 1, options) as server:
        assert server.restore_slot("slot") > 0
        assert server.complete([50, 4, 5, 7, 8], 1).computed == 1
        with pytest.raises(ValueError, match=r"status 400: .*too many tokens"):
            server.complete([0, 4], 1)


def test_a_server_that_does_not_answer_is_an_error(program: Path) -> None:
    with LlamaServer(str(program), Path("any.gguf"), 1, 100, 1, limit_s=0.2) as server:
        with pytest.raises(ValueError, match=r"llama\.cpp: no answer after 0\.2 seconds"):
            server.complete([5000, 4], 1)
        with pytest.raises(ValueError, match=r"llama\.cpp: no answer after 0\.2 seconds"):
            server.ask([[5000, 4]], 1)
        server._process.kill()
        server._process.wait()
        with pytest.raises(ValueError, match=r"llama\.cpp: cannot be asked"):
            server.complete([50, 4], 1)


def test_a_server_that_does_not_start_says_why(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llama\.cpp: its process ended: no such file"):
        LlamaServer(str(program), Path("dies"), 1, 100, 1)
    with pytest.raises(ValueError, match="cannot be started: No such file"):
        LlamaServer(str(tmp_path / "none"), Path("any.gguf"), 1, 100, 1)


@pytest.fixture
def script() -> ModuleType:
    spec = util.spec_from_file_location("many_requests_script", ROOT / "bench/many_requests.py")
    assert spec and spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_medians_of_what_there_is(script: ModuleType) -> None:
    lines = [
        {"ours": {"a": ours, "b": None}, "llama.cpp": {"a": theirs, "b": 3.0}}
        for ours, theirs in ((1.0, 2.0), (6.0, 2.0), (4.0, 1.0))
    ]
    assert script.median(lines, "ours", "a") == 4.0 and script.median(lines, "llama.cpp", "a") == 2.0
    assert script.median(lines, "ratio", "a") == 3.0, "of the turns' ratios"
    assert script.median(lines, "ours", "b") is None and script.median(lines, "ratio", "b") is None
    assert script.median([{"ours": {"a": 1.0}}], "ratio", "a") is None


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_command(program: Path, tmp_path: Path) -> None:
    random_checkpoint(CONFIG, tmp_path / "model", 0)
    out = tmp_path / "lines.jsonl"
    command = [
        sys.executable, "-c", "import sys, runpy; from wavefold.plan import machine; machine.MEMORY_TENSOR = 1 << 20; "
        "machine.GEMM_SIZE = 64; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')",
        str(ROOT / "bench/many_requests.py"), str(tmp_path / "model"), "--llama-server", str(program), "--gguf",
        "any.gguf", "--requests", "1", "2", "--prompt", "60", "--new", "6", "--turns", "2", "--threads", "1",
        "--chunk", "50", "--out", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout and "of the bound" in done.stdout
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert [(line["requests"], line["turn"]) for line in lines] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for line in lines:
        ours = line["ours"]
        assert line["wavefold"] and line["hardware"] and line["llama.cpp"]["first_s"] > 0
        assert ours["tokens_per_s"] > 0 and ours["step_s"] > 0 and 0 < ours["engine_share"] < 1
        assert ours["still_chunks"] == pytest.approx(ours["still_s"] / ours["chunk_s"])
        assert ours["bound_share"] == pytest.approx(ours["bound_s"] / ours["step_s"]) and ours["experts_met"] > 0
