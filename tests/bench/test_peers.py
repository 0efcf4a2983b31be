"""`wavefold bench peers`: same inputs for everybody, errors that show, peers that are missing or fail, JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.small import SMALL
from wavefold import random_checkpoint
from wavefold.bench.limits import Limits
from wavefold.bench.llama_cpp import ensure_gguf
from wavefold.bench.peers import EXPERTS, MODELS, Peer, experts, models
from wavefold.bench.peers.contestants import PeerRow
from wavefold.bench.peers.folder import expert_banks
from wavefold.bench.peers.inputs import error_of, write_case, write_experts
from wavefold.bench.peers.kt_kernel import without_pinning
from wavefold.bench.peers.models import mean_kl
from wavefold.bench.peers.ours import layer_weights
from wavefold.bench.products import ExpertShape
from wavefold.bench.worker import Worker
from wavefold.cli.main import main
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

SHAPE = ExpertShape(hidden=256, inter=128, num_experts=4, topk=2, limit=1.0)
PEER = Peer("plain", "tests.bench.peer_experts", "plain")
ABSENT = Peer("absent", "tests.bench.no_such_module", "absent==1")


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.plan.machine.MEMORY_TENSOR", 1 << 20)
    monkeypatch.setattr("wavefold.plan.machine.GEMM_SIZE", 64)
    monkeypatch.setenv("COLUMNS", "200")


def test_experts_agree_with_float64_and_absent_peers_are_named() -> None:
    """Ours in exact arithmetic rounds inner rows and outputs by up to 2^-9; the plain peer sums in float32."""
    rows, missing = experts.measure(SHAPE, 2, [1, 3], "exact", sys.executable, 2, [PEER, ABSENT])
    assert [(row.name, row.kind, row.tokens) for row in rows] == [
        (name, "experts", tokens) for tokens in (1, 3) for name in ("wavefold", "plain")
    ]
    assert all(row.error < (6e-3 if row.name == "wavefold" else 1e-5) for row in rows)
    assert all(len(row.seconds) == len(row.limits) == 2 and row.share > 0 for row in rows)
    assert rows[0].bytes == 2 * SHAPE.bytes_each and rows[0].operations == 6 * 2 * 256 * 128
    assert [(peer.name, peer.command) for peer in missing] == [("absent", "pip install absent==1")]
    assert "tests.bench.no_such_module is not installed in" in missing[0].reason


def test_a_wrong_result_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PEER", "doubles")
    rows, _ = experts.measure(SHAPE, 1, [2], "exact", sys.executable, 1, [PEER])
    assert rows[1].error == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("how", "reason"), [("refuses", "no such instruction"), ("fails", "three tokens are too many")]
)
def test_a_peer_that_fails_leaves_with_its_reason(how: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PEER", how)
    rows, missing = experts.measure(SHAPE, 1, [1, 3], "released", sys.executable, 1, [PEER])
    assert {row.name for row in rows} == {"wavefold"} and len(rows) == 2
    assert [peer.name for peer in missing] == ["plain"] and reason in missing[0].reason
    assert missing[0].command is None and "install" not in str(missing[0])


def test_whole_models(tmp_path: Path) -> None:
    config = SMALL.replace(vocab_size=40, o_lora_rank=128)
    random_checkpoint(config, tmp_path / "model", seed=0)
    peer = Peer("flat", "tests.bench.peer_model", "flat")
    rows, missing = models.measure(
        tmp_path / "model", tmp_path / "none.gguf", 20, 3, "exact", sys.executable, 2, [peer, ABSENT]
    )
    assert [(row.name, row.kind) for row in rows] == [
        (name, kind) for kind in ("prefill", "decode") for name in ("wavefold", "flat")
    ]
    assert rows[1].seconds == [1.0, 1.0] and rows[3].seconds == [0.5, 0.5]
    reference = models.reference_logits(tmp_path / "model", list(range(20))).double().log_softmax(-1)
    assert reference.shape == (20, 40)
    flat = math.log(40) + float((reference.exp() * reference).sum(-1).mean())  # KL from equal probabilities
    assert rows[1].error == rows[3].error == pytest.approx(flat, rel=0.2)  # of other tokens of the same model
    assert 0 < rows[0].error < rows[1].error / 30
    assert rows[0].limit == "dense" and rows[2].limit == "memory"
    assert [peer.name for peer in missing] == ["absent"]


def test_divergence_by_hand() -> None:
    """KL((1/2, 1/2) || (1/4, 3/4)) = ln 2 / 2 + ln(2/3) / 2; of equal distributions 0."""
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    assert mean_kl(p, q + 3) == pytest.approx((math.log(2) + math.log(2 / 3)) / 4, rel=1e-6)


def test_ratios_and_shares_are_medians_over_turns() -> None:
    ours, other = PeerRow("wavefold", "experts", 1, 8.0, 6.0), PeerRow("other", "experts", 1, 8.0, 6.0)
    ours.seconds, other.seconds = [1.0, 2.0, 4.0], [3.0, 4.0, 4.0]
    other.limits = [Limits(8.0, {"float32": 6.0})] * 3
    assert other.ratio(ours) == 2.0 and other.share == pytest.approx(0.25)
    assert error_of(torch.tensor([[3.0, 4.0], [9.0, 9.0]]), torch.tensor([[0.0, 5.0]])) == pytest.approx(
        math.sqrt(10) / 5
    )


def test_everybody_reads_the_same_weights(tmp_path: Path) -> None:
    write_experts(tmp_path, SHAPE, 2)
    banks, weights = expert_banks(str(tmp_path), 1, 4), layer_weights(str(tmp_path), 1, 4)
    assert banks["gate_up"].shape == (4, 256, 128) and banks["down_scale"].shape == (4, 256, 4)
    for expert, (w1, w2, w3) in enumerate(weights):
        assert torch.equal(banks["gate_up"][expert, :128], w1.codes.view(torch.uint8))
        assert torch.equal(banks["gate_up"][expert, 128:], w3.codes.view(torch.uint8))
        assert w2.scales is not None and torch.equal(banks["down_scale"][expert], w2.scales.view(torch.uint8))
    assert not torch.equal(banks["gate_up"][0], banks["gate_up"][1])
    case = write_case(tmp_path / "case.safetensors", SHAPE, 5, 3)
    assert torch.allclose(case["weights"].sum(-1), torch.ones(3, 5))
    assert all(len(set(ids)) == 2 for ids in case["ids"].flatten(0, 1).tolist())


def test_memory_is_not_pinned() -> None:
    unpinned = without_pinning(torch.zeros)
    assert torch.equal(unpinned(2, pin_memory=True, dtype=torch.int8), torch.zeros(2, dtype=torch.int8))


def test_a_worker_stands_still_between_requests() -> None:
    echo = "import sys, json\nprint('{}', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"
    with Worker("echo", [sys.executable, "-c", echo], {}) as worker:
        state = Path(f"/proc/{worker._process.pid}/stat")
        for number in range(3):
            assert worker.ask({"n": number}) == {"n": number}
            deadline = time.monotonic() + 10  # a signal takes a moment
            while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "T":
                assert time.monotonic() < deadline
                time.sleep(0.01)
        with pytest.raises(ValueError, match="echo: too much"):
            worker.ask({"error": "too much"})
    with pytest.raises(ValueError, match="silent: its process ended: last words"):
        Worker("silent", [sys.executable, "-c", "import sys; print('last words', file=sys.stderr)"], {})


def test_command_names_missing_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "small.json", tmp_path / "lines.jsonl"
    config.write_text(json.dumps(SMALL.to_dict()))
    command = ["bench", "peers", "--config", str(config), "--experts", "4", "--layers", "1", "--tokens", "1", "2"]
    bare = tmp_path / "python"  # a Python without peers, whatever this one has
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c \'print("""{{"missing": "it"}}""", flush=True)\'\n')
    bare.chmod(0o755)
    assert main([*command, "--python", str(bare), "--repeats", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for peer in EXPERTS:
        assert f"{peer.name}: it is not installed in {bare}; install it with: pip install {peer.install}" in printed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    about = {"hardware", "threads", "torch", "wavefold", "commit", "repeats", "bench", "kernels", "arithmetic",
             "python", "model", "peer"}  # fmt: skip
    keys = {"kind", "tokens", "bytes", "operations", "seconds", "memory_bytes_per_s", "dense_operations_per_s",
            "share", "bound_by", "error", "ratio"}  # fmt: skip
    assert [set(line) - about for line in lines] == [keys, keys, {"missing"}, {"missing"}]
    assert [line["peer"] for line in lines] == ["wavefold", "wavefold", "freetoken", "kt-kernel"]
    assert all(line["ratio"] == 1 and 0 < line["error"] < 0.1 for line in lines[:2])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["--peers", "vllm"],
            "--peers vllm is not allowed; expected some of freetoken, kt-kernel, llama.cpp, flyweight",
        ),
        (["--tokens", "0"], "tokens [0] are not allowed; expected 1 or more"),
        (["--experts", "5"], "expected 6 or more experts"),
        (["--layers", "100000"], "expected fewer --layers or --experts"),
        (["--threads", "0"], "--threads 0 is not allowed"),
    ],
)
def test_what_cannot_be_measured(command: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", *command]) == 2
    assert says in capsys.readouterr().err


def test_a_gguf_file_is_there_or_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs --gguf"):
        ensure_gguf(None, tmp_path, None, 1)
    with pytest.raises(ValueError, match="does not exist; --sdist FILE makes it"):
        ensure_gguf(tmp_path / "a.gguf", tmp_path, None, 1)
    (tmp_path / "a.gguf").touch()
    assert ensure_gguf(tmp_path / "a.gguf", tmp_path, None, 1) == tmp_path / "a.gguf"
    assert {peer.name for peer in (*EXPERTS, *MODELS)} == {"freetoken", "kt-kernel", "llama.cpp", "flyweight"}
