"""The whole card of the shipped model, small: two runs give the same bytes, one that was killed too."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import wavefold
from tests.gguf_files import TINY, official_folder
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import ops
from wavefold.cli.main import main
from wavefold.locate import DEFAULT_MODEL
from wavefold.quality import Asked, Card, Run, Settings, compare
from wavefold.quality.lengths import check_lengths, default_lengths
from wavefold.quality.run import parts_of
from wavefold.system.memory import Limit

SETTINGS = Settings(256, (128,))
SHORT = ("text", "needles", "forms")
ARGUMENTS = ["--tokens", "256", "--lengths", "128", "--parts", ",".join(SHORT)]


def card_of(out: Path, model: Path = DEFAULT_MODEL, against: Path | None = DEFAULT_MODEL, **more: object) -> Card:
    return Run(Asked(model, against, None, Settings(256, (128,), **more)), out, print, lambda share, left: None).card()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("quality") / "first"
    card_of(out)
    return out


def test_a_model_against_itself_differs_in_nothing(folder):
    card = Card.load(folder)
    assert card.parts == ["text", "needles", "loops", "forms", "tools", "chats"] and not card.missing
    kl, same = (card.find("text", name) for name in ("KL to the other model", "same best token"))
    assert kl.value == 0 and same.value == 1 and sum(kl.den) > 150
    assert card.find("text", "bits per byte beyond the other model").value == 0
    for name in ("forms", "tools"):
        valid = "valid answers" if name == "forms" else "valid calls"
        assert card.find(name, valid, "held by the grammar").value == 1


def test_bits_per_byte_are_those_of_the_model(folder):
    """By plain logits of whole sequences, for the first passage."""
    reading = parts_of(Run(Asked(DEFAULT_MODEL, None, None, SETTINGS), folder, print, lambda s, t: None).passages,
                       SETTINGS, None)[0]  # fmt: skip
    result = json.loads((folder / "units" / "text-0000.json").read_text())
    text = reading.units()[0].data[2]
    ids = wavefold.Tokenizer.load(DEFAULT_MODEL).encode(text, bos=True)
    logits = wavefold.load(DEFAULT_MODEL, "released")(torch.tensor([ids]))[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")
    assert sum(block["nats"] for block in result["blocks"]) == pytest.approx(float(nats), rel=1e-2)
    assert sum(block["bytes"] for block in result["blocks"]) == len(text.encode())
    assert sum(block["tokens"] for block in result["blocks"]) == len(ids) - 1


def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    card_of(whole, parts=SHORT)
    command = [sys.executable, "-m", "wavefold", "quality", "--against", str(DEFAULT_MODEL), "--out", str(out)]
    child = subprocess.Popen([*command, *ARGUMENTS], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list((out / "units").glob("*.json"))) < 6 and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = {path: path.stat().st_mtime_ns for path in (out / "units").glob("*.json")}
    assert len(done) >= 6 and not (out / "card.json").exists()
    assert main(["quality", "--against", str(DEFAULT_MODEL), "--out", str(out), *ARGUMENTS]) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for name in ("card.json", "card.md", "card.html"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_the_page_is_whole_and_asks_for_nothing(folder):
    page = (folder / "card.html").read_text()
    assert "default-src 'none'" in page and page.count("<table>") == 7
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == [] and "<script" not in page
    assert "http" not in re.sub(r'base64,[^"]*', "", page).replace("http-equiv", "")
    assert (folder / "card.md").read_text().startswith("# Quality card")


def test_a_folder_of_another_card_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="holds a card of other settings; give another --out"):
        card_of(folder, seed=1)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        card_of(tmp_path)


def test_two_cards_are_compared(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "second")
    values = json.loads((tmp_path / "second" / "card.json").read_text())
    line = next(line for line in values["figures"] if line["figure"] == "bits per byte" and line["of"] == "all")
    line["num"] = [num + den for num, den in zip(line["num"], line["den"], strict=True)]
    (tmp_path / "second" / "card.json").write_text(json.dumps(values))
    differences = compare(Card.load(folder), Card.load(tmp_path / "second"))
    changed = [one for one in differences if one.errors]
    assert [(one.first.name, one.first.of) for one in changed] == [("bits per byte", "all")]
    assert changed[0].value == pytest.approx(1)
    out = tmp_path / "out"
    assert main(["quality", "--compare", str(folder), str(tmp_path / "second"), "--out", str(out)]) == 0
    assert "worse" in capsys.readouterr().out
    written = json.loads((out / "compare.json").read_text())
    assert sum(line["verdict"] == "worse" for line in written["figures"]) == 1
    assert "Two quality cards" in (out / "compare.html").read_text()


@pytest.mark.parametrize(("part", "key", "said"), [("settings", "tokens", "--tokens"), ("texts", "digest", "texts")])
def test_cards_of_different_things_are_not_compared(part, key, said, folder, tmp_path):
    values = json.loads((folder / "card.json").read_text())
    values[part][key] = "other"
    (tmp_path / "card.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=said):
        compare(Card.load(folder), Card.load(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "wavefold quality card 1"}', "[" * 100000,
             '{"kind": "wavefold quality card 1", "figures": [{"num": [1], "den": [], "figure": "x"}]}'],
    ids=range(6),
)  # fmt: skip
def test_a_file_that_is_no_card_is_refused(text, tmp_path):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match="is no quality card"):
        Card.load(tmp_path)


def test_usual_lengths_are_those_that_the_window_has_room_for(tmp_path):
    for window, lengths in ((1000, (512,)), (4096, (512, 1024, 2048, 4096)), (300, (300,))):
        model = small_model(tmp_path / str(window), SMALL_WITH_TEXT.replace(max_position_embeddings=window))
        assert default_lengths(model) == lengths


def test_a_needle_that_memory_has_no_room_for_is_refused_first(monkeypatch):
    monkeypatch.setattr(
        "wavefold.system.memory.tightest", lambda mapped=0: Limit("the machine", 1 << 30, 1 << 20, False)
    )
    with pytest.raises(ValueError, match="lengths = 65536: the cache of a needle takes"):
        check_lengths(DEFAULT_MODEL, Settings(256, (128, 65536)), None)
    check_lengths(DEFAULT_MODEL, Settings(256, (65536,), parts=("text",)), None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "3"], "expected 256 or more"),
        (["--lengths", "a"], "expected numbers"),
        (["--lengths", "99999999"], "--lengths 99999999 is not allowed"),
        (["--lengths", "512,1048577"], "max_position_embeddings is 1048576; expected numbers of tokens from 128 to"),
        (["--lengths", "1048576", "--memory", "300M"], "the cache of a needle takes 0.36 GB of memory = 300M"),
        (["--parts", "text,all"], "expected some of text"),
        (["--parts", ""], "--parts '' are not allowed; expected some of text"),
        (["--parts", "chats", "--against", str(DEFAULT_MODEL)], "expected it among them"),
        (["--text", "none"], "no such file"),
        (["--against", "none"], "no such folder"),
        (["--compare", "a", "b", "--against", "c"], "leave MODEL"),
        (["--compare", "a", "b"], "no quality card"),
    ],
)
def test_mistakes_are_named(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["quality", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_gguf_file_beside_the_folder_that_it_was_made_of(tmp_path):
    """llama.cpp's file of a random model, in float32: FP8 matrices became Q8_0, experts did not change."""
    model = official_folder(tmp_path / "model")
    exact = Settings(256, (128,), arithmetic="exact", parts=("text", "needles"))
    card = Run(Asked(TINY, model, None, exact), tmp_path / "card", print, lambda share, left: None).card()
    distance = card.find("text", "KL to the other model")
    assert 0 < distance.value < 1e-3
    assert card.find("text", "texts with the other model's ids").value == 1
    with ops.using(backend="reference"), pytest.raises(ValueError, match="computed by the CPU kernels alone"):
        Run(Asked(TINY, None, None, SETTINGS), tmp_path / "other", print, lambda share, left: None).card()


def test_models_of_other_vocabularies_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="expected a model of the same vocabulary"):
        Run(Asked(TINY, DEFAULT_MODEL, None, SETTINGS), tmp_path, print, lambda share, left: None)
