"""`wavefold bench context`: rows that agree with the plan, refusals before anything is allocated, lines on disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

import wavefold
from tests.small import SMALL
from wavefold import random_checkpoint
from wavefold.bench.context import dense_model, measure_contexts
from wavefold.cache import CacheLayout, Pool
from wavefold.checkpoint.random import random_model
from wavefold.cli.bench_context import text_for
from wavefold.cli.main import main
from wavefold.locate import default_model
from wavefold.model import Transformer
from wavefold.ops import Arithmetic

CONFIG = SMALL.replace(vocab_size=40, max_position_embeddings=1000)
TOKENS = torch.randint(0, 40, (900,), generator=torch.Generator().manual_seed(0))
ARITHMETICS = [Arithmetic("released", torch.bfloat16), Arithmetic("exact"), Arithmetic("exact", torch.bfloat16)]


@pytest.mark.parametrize("arithmetic", ARITHMETICS, ids=str)
def test_rows(arithmetic: Arithmetic) -> None:
    model = random_model(CONFIG, 0, arithmetic, packed=True)
    seen: list[tuple[int, int]] = []
    rows = measure_contexts(model, TOKENS, [100, 128, 700], 2, lambda *progress: seen.append(progress))
    assert [row.context for row in rows] == [100, 128, 700] and seen[-1] == (700, 700)
    layout = CacheLayout(CONFIG, model.records)
    for row, blocks in zip(rows, (1, 1, 6), strict=True):
        assert row.cache_bytes == row.planned_bytes == blocks * layout.block_bytes + layout.state_bytes
        assert row.decode_s > 0 and row.peak_rss_bytes > 0
    assert 0 < rows[0].prefill_s < rows[1].prefill_s < rows[2].prefill_s


@pytest.mark.parametrize(
    ("contexts", "decode", "says"),
    [
        ([0, 10], 1, "positive lengths in ascending order"),
        ([-5], 1, "positive lengths in ascending order"),
        ([20, 10], 1, "ascending order"),
        ([], 1, "ascending order"),
        ([999], 2, "the model goes to 1,000"),
        ([901], 2, "needs a longer text; this one has 900"),
        ([10], 0, "expected 1 or more"),
    ],
)
def test_what_cannot_be_measured(contexts: list[int], decode: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(CONFIG, Arithmetic("exact"))  # no weights: nothing may run
    monkeypatch.setattr(Pool, "__init__", lambda *args: pytest.fail("a pool was opened"))
    with pytest.raises(ValueError, match=says):
        measure_contexts(model, TOKENS, contexts, decode)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_checkpoint(CONFIG, tmp_path / "model", seed=0)
    out = tmp_path / "lines.jsonl"
    command = [
        "bench",
        "context",
        str(tmp_path / "model"),
        "--contexts",
        "64",
        "300",
        "--decode",
        "1",
        "--repeats",
        "2",
    ]
    assert main([*command, "--out", str(out)]) == 0
    assert "random tokens" in capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["run"], line["context"]) for line in lines] == [(0, 64), (0, 300), (1, 64), (1, 300)]
    assert {"hardware", "commit", "repeats", "threads", "arithmetic", "decode_s", "peak_rss_bytes"} <= set(lines[0])
    assert main([*command, "--data", "stdlib"]) == 2
    assert "holds no tokenizer.json" in capsys.readouterr().err
    assert main([*command, "--repeats", "0"]) == 2


def test_dense_attention_sees_everything() -> None:
    """The same weights; a token far beyond a window of 128 changes the last one's logits, and no entries are cached."""
    model = random_model(CONFIG, 0, ARITHMETICS[0], packed=True)
    dense = dense_model(model, 700)
    assert dense.layers[1].attn.wkv.weight.data_ptr() == model.layers[1].attn.wkv.weight.data_ptr()
    logits = []
    for first in (1, 2):
        tokens = TOKENS[:600].clone()
        tokens[0] = first
        sequence = dense.new_pool(600).open()
        logits.append(dense.logits(dense.extend(tokens, [sequence], [600])[-1:]))
        assert sequence.pool.layout.block_bytes == 0
    assert not torch.equal(*logits)
    with pytest.raises(ValueError, match="at most 65,536"):
        dense_model(model, 70_000)


def test_more_text_than_was_held_out(tmp_path: Path) -> None:
    """Training files follow the held-out ones when a context asks for more."""
    args = argparse.Namespace(data="stdlib", contexts=[1000])
    model = wavefold.load(default_model(), "exact")
    try:
        few, what = text_for(args, default_model(), model)
    except ValueError as error:  # another Python's library
        pytest.skip(str(error))
    args.contexts = [len(few) + 5000]
    many, all_of_it = text_for(args, default_model(), model)
    assert torch.equal(many[: len(few)], few) and len(many) >= len(few) + 5000
    assert what.startswith("held-out files") and all_of_it.startswith("all files")
