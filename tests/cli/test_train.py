"""`wavefold train`, whole, on a tiny model: what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import CONFIG, write_corpus
from wavefold.chat import Tokenizer
from wavefold.checkpoint import load
from wavefold.cli import train_screen
from wavefold.cli.main import main
from wavefold.data.batches import Tokens
from wavefold.data.shards import write_shards
from wavefold.model.official import official_tensor, official_tensors

FLAGS = ["--dtype", "float32", "--set", "steps=4", "length_stages=((0,160),)", "batch_tokens=320", "warmup=2",
         "decay_steps=2", "eval_every=2", "save_every=2"]  # fmt: skip


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


def train(config: Path, data: Path, out: Path, *more: str) -> int:
    return main(["train", "--config", str(config), "--data", str(data), "--out", str(out), *FLAGS, *more])


def test_leaves_a_model_that_runs_a_report_and_a_curve(config_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config_file, write_corpus(tmp_path / "corpus"), out) == 0
    assert "bits per byte" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["xz"] > 0 and report["gzip"] > 0 and report["model"] > 0 and report["hours"] > 0
    assert len((out / "log.jsonl").read_text().splitlines()) == 4
    assert (out / "curve.svg").read_text().startswith("<?xml")
    assert list((out / "tensorboard").iterdir())
    assert main(["run", str(out / "model"), "-p", "def f", "--max-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] > 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config", "no-such-preset"], "presets are flash, nano, pro"),
        (["--data", "no/such/folder"], "expected 'stdlib', an existing folder"),
        (["--set", "steps=0"], "steps = 0 is not allowed"),
        (["--set", "length_stages=((0,20000),)", "batch_tokens=20000"], "fewer than one sequence"),
        (["--set", "length_stages=((0,1000),)"], "batch_tokens = 320 is not allowed; expected 1000 or more"),
        (["--threads", "0"], "--threads 0 is not allowed"),
        (["--extend", "0"], "--extend 0 is not allowed"),
        (["--set", "stepps=3"], "recipe key 'stepps' is not known; expected one of activations"),
        (["--set", "steps"], "'steps' is not allowed; expected KEY=VALUE"),
        (["--recipe", "no_such.py"], "no such recipe"),
        (["--set", "lora_rank=4"], "expected --init MODEL"),
        (["--set", "peak_lr=0.5"], "recipe peak_lr: 0.0016 there, 0.5 here"),
    ],
)
def test_mistakes_are_one_message(config_file, tmp_path, capsys, flags, message):
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    if "peak_lr=0.5" in flags:
        train(config_file, data, out)
    assert train(config_file, data, out, *flags) == 2
    assert message in capsys.readouterr().err


def test_adapters_leave_the_rest_of_the_model_byte_for_byte(config_file, tmp_path):
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    assert train(config_file, data, out) == 0
    more = ["--init", str(out / "model"), "--set", "lora_rank=2", "peak_lr=0.01", "mtp_weight=0.3"]
    adapted = tmp_path / "adapted"
    assert main(["train", "--data", str(data), "--out", str(adapted), *FLAGS, *more]) == 0
    before, after = (load(folder / "model", "exact") for folder in (out, adapted))
    changed = set()
    for name, old in official_tensors(before):
        new = official_tensor(after, name)
        assert new.dtype == old.dtype
        if not torch.equal(new.contiguous().view(torch.uint8), old.contiguous().view(torch.uint8)):
            changed.add(name)
    strange = {name for name in changed if ".attn.w" not in name and ".shared_experts." not in name}
    assert changed and strange == set()
    assert set(load_file(adapted / "adapters.safetensors")) == {
        f"{name.removesuffix('.weight')}.lora_{part}" for name in dict(official_tensors(before))
        if name.endswith(("wq_a.weight", "attn.wq_b.weight", "attn.wkv.weight", "wo_b.weight"))
        or (".shared_experts." in name and name.endswith(".weight"))
        for part in "ab"
    }  # fmt: skip


def test_long_evaluations_say_how_far_they_are(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_screen, "QUIET_S", 0.0)
    short = ["--set", *FLAGS[FLAGS.index("--set") + 1 :], "length_stages=((0,40),)", "batch_tokens=40"]
    assert train(config_file, write_corpus(tmp_path / "corpus"), tmp_path / "out", *short) == 0
    said = re.findall(r"held out: (\d+) of (\d+) batches, [\d.]+ minutes left", capsys.readouterr().err)
    batches = {int(of) for _, of in said}
    assert len(batches) == 1
    one = [str(number) for number in range(2, batches.pop())]
    assert [number for number, _ in said] == one * (len(said) // len(one)) and len(said) >= 2 * len(one) > 0


def test_chats_and_token_shards_train_a_model_that_is_there(config_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config_file, write_corpus(tmp_path / "corpus"), out) == 0
    chats = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}! " * 20}] for i in range(40)]
    lines = [json.dumps({"messages": chat}) for chat in chats]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    tokenizer = Tokenizer.load(out / "model")
    write_shards(tmp_path / "shards", [Tokens(np.array(tokenizer.encode_document(t * 20))) for t in lines], 320)
    capsys.readouterr()
    for source in ("chats.jsonl", "shards"):
        flags = ["--data", str(tmp_path / source), "--out", str(tmp_path / source[:3]), "--init", str(out / "model")]
        assert main(["train", *flags, *FLAGS]) == 0
        said = capsys.readouterr().out
        assert ("bits per byte" in said) is False and "nats a token" in said
    assert main(["train", "--data", str(tmp_path / "shards"), "--out", str(tmp_path / "x"), *FLAGS]) == 2
    assert "give the model with --init" in capsys.readouterr().err
