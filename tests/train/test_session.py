"""`wavefold.train(...)`: the run of the command, entered from Python; and a refused run leaves nothing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import wavefold
from tests.train.tiny import CONFIG, write_corpus
from wavefold.chat import Tokenizer
from wavefold.cli.main import main
from wavefold.data.batches import as_tokens
from wavefold.data.shards import write_shards
from wavefold.system import Notice
from wavefold.train.outcome import Outcome
from wavefold.train.recipe import Recipe
from wavefold.train.session import DataSizes, Watch
from wavefold.train.trainer import Progress

RECIPE = Recipe(
    steps=4, length_stages=((0, 160),), batch_tokens=320, warmup=2, decay_steps=2, eval_every=2, save_every=2
)


class Recorder(Watch):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def data(self, sizes: DataSizes) -> None:
        self.told.append(sizes)

    def steps(self, first: int, recipe: Recipe, out: Path) -> AbstractContextManager[Callable[[Progress], None]]:
        self.told.append(first)
        return nullcontext(lambda progress: self.told.append(progress.step))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("session") / "corpus")


class StopsAfter(Watch):
    """Ends the run by an error after a step, as a kill would."""

    def __init__(self, step: int):
        self.step = step

    def steps(self, first: int, recipe: Recipe, out: Path) -> AbstractContextManager[Callable[[Progress], None]]:
        def after(progress: Progress) -> None:
            if progress.step == self.step + 1:
                raise RuntimeError("stop")

        return nullcontext(after)


def logged(out: Path) -> list[dict[str, object]]:
    """Lines of the log without what the clock says."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


def train(corpus: Path, out: Path, **settings: object) -> Outcome:
    defaults = {"config": CONFIG, "recipe": RECIPE, "dtype": torch.float32}
    outcome = wavefold.train(out, corpus, **(defaults | settings))  # type: ignore[arg-type]
    assert outcome is not None
    return outcome


def test_trains_tells_and_leaves_a_model_that_answers(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    outcome = train(corpus, tmp_path / "out", watch=recorder)
    sizes, *steps = recorder.told
    assert isinstance(sizes, DataSizes)
    assert sizes.documents + sizes.held_out_documents == 40
    assert steps == [0, 1, 2, 3, 4]
    assert (outcome.model, outcome.steps, outcome.was_finished) == (tmp_path / "out" / "model", 4, False)
    assert outcome.report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert outcome.report["model"] > 0
    assert capsys.readouterr() == ("", ""), "what is printed is the command's"
    with wavefold.LLM(outcome.model) as llm:
        assert len(llm.generate(["def f"], wavefold.Sampling(max_tokens=3))[0].tokens) <= 3


def test_the_last_steps_learn_from_other_data(corpus: Path, tmp_path: Path) -> None:
    """Steps before it are those of a run without; its first batch is that of a run on the other data alone."""
    other = write_corpus(tmp_path / "other", "-")
    recipe = replace(RECIPE, last_steps=2)
    train(corpus, tmp_path / "out", recipe=recipe, last_data=other)
    train(corpus, tmp_path / "plain")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "out" / "tokenizer.json", tmp_path / "alone")
    with pytest.warns(Notice, match="is used as it is"):
        train(other, tmp_path / "alone")
    both, plain, alone = (logged(tmp_path / name) for name in ("out", "plain", "alone"))
    assert both[:2] == plain[:2] and both[2]["tokens"] == alone[0]["tokens"]
    assert both[2]["loss"] != plain[2]["loss"]


def test_a_killed_run_goes_on_within_its_last_part(corpus: Path, tmp_path: Path) -> None:
    other, recipe = write_corpus(tmp_path / "other", "-"), replace(RECIPE, steps=6, last_steps=4)
    settings = {"recipe": recipe, "last_data": other}
    train(corpus, tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="stop"):
        train(corpus, tmp_path / "cut", **settings, watch=StopsAfter(4))
    train(corpus, tmp_path / "cut", **settings)
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    with pytest.raises(ValueError, match="last_data"):
        train(corpus, tmp_path / "cut", recipe=recipe, last_data=corpus)


@pytest.mark.parametrize("settings", [{"last_data": "stdlib"}, {"recipe": replace(RECIPE, last_steps=2)}])
def test_last_data_and_their_steps_go_together(corpus: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give both, data and the number of steps"):
        train(corpus, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_token_shards_bring_the_tokenizer_that_lies_beside_them(corpus: Path, tmp_path: Path) -> None:
    outcome = train(corpus, tmp_path / "text")
    tokenizer = Tokenizer.load(outcome.model)
    ids = [as_tokens(tokenizer.encode_document(path.read_text())) for path in sorted(corpus.rglob("*.py"))]
    write_shards(tmp_path / "data" / "text", ids, tokenizer.vocab_size, tokenizer=tokenizer.fingerprint)
    with pytest.raises(ValueError, match="give the model with --init"):
        train(tmp_path / "data" / "text", tmp_path / "out")
    tokenizer.save(tmp_path / "data")
    trained = train(tmp_path / "data" / "text", tmp_path / "out")
    assert Tokenizer.load(trained.model).fingerprint == tokenizer.fingerprint


def test_is_the_commands_run(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same files; the command takes the folder for its own, finished run; Python goes on with it."""
    train(corpus, tmp_path / "python")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    settings = ["steps=4", "length_stages=((0,160),)", "batch_tokens=320", "warmup=2", "decay_steps=2", "eval_every=2",
                "save_every=2"]  # fmt: skip
    flags = ["train", "--config", str(config), "--data", str(corpus), "--dtype", "float32", "--set", *settings]
    assert main([*flags, "--out", str(tmp_path / "command")]) == 0
    for name in ("tokenizer.json", *(f"model/{path.name}" for path in (tmp_path / "python" / "model").iterdir())):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name
    capsys.readouterr()
    assert main([*flags, "--out", str(tmp_path / "python")]) == 0
    assert "is finished, 4 steps; nothing was changed" in capsys.readouterr().out
    again = train(corpus, tmp_path / "command")
    assert again.was_finished and again.steps == 4
    extended = train(corpus, tmp_path / "command", extend=2)
    assert extended.steps == 6 and not extended.was_finished


def test_the_package_is_called_and_holds_modules() -> None:
    """Whichever comes first: a module of the package, or the function's name."""
    recipe = importlib.import_module("wavefold.train.recipe")
    assert wavefold.train.recipe is recipe  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="--extend 0 is not allowed"):
        wavefold.train("nowhere", extend=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extend": 0}, "--extend 0 is not allowed; expected 1 or more"),
        ({"threads": 0}, "threads = 0 is not allowed; expected 1 or more"),
        ({"config": "nano", "init": "x"}, "--config nano is not allowed beside --init x"),
        ({"config": "mini"}, "mini: no such file, nor a preset"),
        ({"config": None, "init": "mini"}, "mini: no such folder"),
        ({"recipe": Recipe(lora_rank=4)}, r"lora_rank needs a model to adapt; expected --init MODEL"),
        ({"data": "no/such/folder"}, "expected 'stdlib', an existing folder"),
    ],
)
@pytest.mark.parametrize("place", ["new", "below/new/ones", "empty"])
def test_a_refused_run_leaves_nothing(
    corpus: Path, tmp_path: Path, place: str, settings: dict[str, object], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        wavefold.train(tmp_path / place, **{"data": corpus, "config": CONFIG, **settings})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_does_not_learn_from_itself(corpus: Path, tmp_path: Path) -> None:
    """Its lock and log would be documents, also of a folder that a list names."""
    (tmp_path / "list.txt").write_text("# all\n.\n")
    for data in (tmp_path, tmp_path / "list.txt"):
        with pytest.raises(ValueError, match=r"and would be trained on; give another --out"):
            wavefold.train(tmp_path / "out", data=data, config=CONFIG)
        assert not (tmp_path / "out").exists()


def test_another_folder_named_adapter_is_told_before_the_first_step(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out/adapter").mkdir(parents=True)
    (tmp_path / "out/adapter/notes").write_text("mine")
    with pytest.raises(ValueError, match="holds no adapter, so it is not replaced; move it away"):
        wavefold.train(
            tmp_path / "out", data=corpus, init="wavefold/models/default", config=None, recipe=Recipe(lora_rank=4)
        )
    assert not (tmp_path / "out/state").exists()


def test_a_refused_run_leaves_what_was_there(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(corpus, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ValueError, match="holds another run"):
        train(corpus, out, recipe=Recipe(steps=9, length_stages=((0, 160),), batch_tokens=320))
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_a_lock_that_its_holder_removed_is_made_anew(tmp_path: Path) -> None:
    """Between opening the file and locking it: who locks a removed file would hold nothing."""
    atomic = importlib.import_module("wavefold.atomic")
    path, removed = tmp_path / ".lock", []
    try_lock = atomic.try_lock

    def late(handle: int) -> bool:
        if not removed:
            removed.append(os.fstat(handle).st_ino)
            path.unlink()
        return bool(try_lock(handle))

    atomic.try_lock = late
    try:
        with atomic.holding(path):
            assert path.exists()
            with pytest.raises(ValueError, match="is held by process"), atomic.holding(path):
                pass
    finally:
        atomic.try_lock = try_lock
