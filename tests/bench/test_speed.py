"""`wavefold bench speed`: turns, bounds that agree with the model's own bytes, refusals, lines on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.gguf_files import TINY, rewritten
from tests.small import SMALL
from wavefold import ModelConfig, load, ops, random_checkpoint
from wavefold.bench.contestants import Transformers, Wavefold
from wavefold.bench.rates import all_rates
from wavefold.bench.speed import decode_bytes, max_decoded, measure, scales_of
from wavefold.checkpoint.count import count_files
from wavefold.checkpoint.random import random_model
from wavefold.cli.main import main
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic, native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

CONFIG = SMALL.replace(vocab_size=40, o_lora_rank=128, max_position_embeddings=2000)
RELEASED = Arithmetic("released", torch.bfloat16)


class Peer:
    """Takes a second for everything, and remembers what it was asked."""

    name, arithmetic = "peer", "none"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def prefill(self, tokens: list[int]) -> float:
        self.asked.append(("prefill", len(tokens)))
        return 1.0

    def decode(self, tokens: list[int]) -> list[float]:
        self.asked.append(("decode", len(tokens)))
        return [1.0] * len(tokens)


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.plan.machine.MEMORY_TENSOR", 1 << 20)
    monkeypatch.setattr("wavefold.plan.machine.GEMM_SIZE", 64)


def test_turns_and_rows() -> None:
    model = random_model(CONFIG, 0, RELEASED, packed=True)
    peer = Peer()
    with ops.using(backend="auto"):
        ours = Wavefold(model, 700 + max_decoded(3, 2))
        rows = measure([ours, peer], CONFIG, [0, 500], 700, 3, 2)
    assert [(row.kind, row.tokens) for row in rows] == [("decode", 0), ("decode", 500), ("prefill", 700)]
    assert [len(row.seconds["wavefold"]) for row in rows] == [6, 6, 2]
    assert peer.asked == [
        *[("prefill", 1), ("decode", 2), ("decode", 3), ("decode", 3)],
        *[("prefill", 500), ("decode", 2), ("decode", 3), ("decode", 3)],
        *[("prefill", 700), ("prefill", 700)],
    ]
    assert all(row.ratio("peer") == pytest.approx(1 / row.median("wavefold")) for row in rows)
    for row in rows:
        assert len(row.machine) == 2
        row.machine, row.seconds["wavefold"] = [10.0, 20.0], [0.5] * 3 + [0.1] * 3
        assert row.share(1.0) == pytest.approx((1 / 10 / 0.5 + 1 / 20 / 0.1) / 2)
    for row in rows[:2]:
        assert 0 < row.seconds["outside native code"][0] < sum(row.seconds["wavefold"])


def test_a_filled_cache_is_one_that_can_be_gone_on_with() -> None:
    model = random_model(CONFIG, 0, RELEASED, packed=True)
    with ops.using(backend="auto"):
        ours = Wavefold(model, 800)
        ours.fill(650)
        assert ours.sequence.num_tokens == 650
        assert len(ours.decode([1, 2, 3])) == 3 and ours.sequence.num_tokens == 653
        hidden = model.extend(torch.tensor([4]), [ours.sequence], [1])
    assert hidden.isfinite().all() and ours.native_s > 0


def test_bytes_of_a_token_are_the_parameters_it_meets() -> None:
    """Every matrix once and the chosen experts', by the module tree; at depth 0 the cache is one row in each layer."""
    model = random_model(CONFIG, 0, RELEASED, packed=True)
    expected = 0
    for name, parameter in official_tensors(model):
        if name.startswith("mtp.") or name.startswith("embed.") or "tid2eid" in name or parameter.dim() != 2:
            continue
        if name.endswith("ape"):
            continue
        share = CONFIG.num_experts_per_tok / CONFIG.n_routed_experts if ".experts." in name else 1
        expected += int(parameter.numel() * parameter.element_size() * share)
    row = model.records.kv.num_bytes
    assert decode_bytes(CONFIG, 0, True) == expected + CONFIG.num_hidden_layers * row


def test_kernels_are_timed_on_the_models_own_weights() -> None:
    model = random_model(CONFIG, 0, RELEASED, packed=True)
    with ops.using(backend="auto"):
        rates = list(all_rates(Wavefold(model, 1000), 600, (1, 16), 1))
    names = [rate.kernel for rate in rates]
    assert "attn.wkv, 1 rows" in names and "ffn.experts.w2, 16 rows" in names and "index, 64 queries" in names
    assert all(rate.seconds > 0 and rate.bytes > 0 and rate.operations > 0 for rate in rates)
    head = next(rate for rate in rates if rate.kernel == "head, 1 rows")
    assert head.operations == 2 * CONFIG.hidden_size * CONFIG.vocab_size


def test_transformers_goes_on_from_what_it_has_read(tmp_path: Path) -> None:
    random_checkpoint(CONFIG, tmp_path / "model", seed=0)
    peer = Transformers(tmp_path / "model")
    assert peer.prefill(list(range(30))) > 0
    assert len(peer.decode([3, 4])) == 2
    assert peer._past.get_seq_length() == 32


@pytest.mark.parametrize(
    ("depths", "prompt", "decode", "repeats", "says"),
    [
        ([0], 0, 0, 1, "expected 1 or more"),
        ([0], 0, 1, 0, "expected 1 or more"),
        ([-1], 0, 1, 1, "expected 0 or more"),
        ([], 0, 1, 1, "expected 0 or more"),
        ([], -5, 1, 1, "expected 0 or more"),
        ([1999], 0, 4, 1, "the model goes to 2,000"),
        ([], 2001, 1, 1, "the model goes to 2,000"),
    ],
)
def test_what_cannot_be_measured(depths: list[int], prompt: int, decode: int, repeats: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        measure([Peer()], CONFIG, depths, prompt, decode, repeats)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    random_checkpoint(CONFIG, tmp_path / "model", seed=0)
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "lines.jsonl"
    command = ["bench", "speed", str(tmp_path / "model"), "--depths", "0", "300", "--prompt", "200", "--decode", "2"]
    with ops.using(backend="auto"):
        assert main([*command, "--repeats", "2", "--peer", "transformers", "--out", str(out), "--kernels"]) == 0
    printed = capsys.readouterr().out
    assert "decode at 300" in printed and "transformers" in printed and "GFLOP" in printed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["what"] for line in lines[:3]] == ["decode", "decode", "prefill"]
    assert len(lines[0]["seconds"]["transformers"]) == 4 and lines[0]["hardware"] and lines[3]["kernel"]
    assert load(tmp_path / "model", "exact").config == CONFIG
    assert main([*command, "--peer", "llama.cpp"]) == 2
    assert "--gguf" in capsys.readouterr().err


def test_a_file_is_measured_by_the_bytes_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token's experts in Q8_0 take 34 bytes for 32 values where MXFP4's take 17; the rest is the same."""
    wide = rewritten(TINY, tmp_path / "wide.gguf", lambda name, kind: "Q8_0" if "_exps" in name else kind)
    config = ModelConfig.from_file(TINY)
    found = []
    for path in (TINY, wide):
        files = count_files(path, config)
        assert files is not None
        found.append(decode_bytes(config, 1, True, scales_of(config, files)))
    routed = config.num_hidden_layers * config.num_experts_per_tok * 3 * 32 * 32
    assert found[1] - found[0] == pytest.approx(routed * 17 // 32, abs=8)
    with ops.using(backend="auto"):
        assert main(["bench", "speed", str(wide), "--depths", "0", "--prompt", "4", "--decode", "2"]) == 0
    assert "decode at 0" in capsys.readouterr().out
