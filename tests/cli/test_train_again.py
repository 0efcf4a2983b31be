"""A run knows what it is: going on in its folder with something else is refused, or deliberate and written down."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import CONFIG, write_corpus
from wavefold import load, save
from wavefold.chat import byte_tokenizer
from wavefold.checkpoint import random_model
from wavefold.cli.main import main
from wavefold.ops import Arithmetic
from wavefold.train.lora import apply_adapters
from wavefold.train.state import newest_state, save_state, states
from wavefold.waves.group import Group

FLAGS = ["--dtype", "float32", "--threads", "1", "--set", "length_stages=((0,160),)", "batch_tokens=320", "warmup=2",
         "decay_steps=2", "eval_every=100", "save_every=2"]  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    """The hashes of all files of a run but TensorBoard's, and of its log without times."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if "tensorboard" not in name}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def other_corpus(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The same files but for one letter in one of them."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    folder.mkdir()
    for file in corpus.iterdir():
        (folder / file.name).write_text(file.read_text().replace("f7_1", "g7_1"))
    return folder


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


@pytest.fixture(scope="module")
def first_model(tmp_path_factory: pytest.TempPathFactory, corpus: Path, config_file: Path) -> Path:
    """A model that was trained for two steps."""
    out = tmp_path_factory.mktemp("first") / "out"
    assert (
        main(["train", "--config", str(config_file), "--data", str(corpus), "--out", str(out), *FLAGS, "steps=4"]) == 0
    )
    return out / "model"


@pytest.fixture
def finished(tmp_path: Path, corpus: Path, config_file: Path) -> list[str]:
    """The command of a run that has ended, without its data."""
    command = ["train", "--config", str(config_file), "--out", str(tmp_path / "out"), *FLAGS, "steps=4"]
    assert main([*command, "--data", str(corpus)]) == 0
    return command


def test_a_finished_run_says_so_and_changes_nothing(finished, corpus, tmp_path, capsys):
    before = content(tmp_path / "out")
    assert main([*finished, "--data", str(corpus)]) == 0
    assert "is finished, 4 steps; nothing was changed" in capsys.readouterr().out
    assert content(tmp_path / "out") == before


def test_other_data_dtype_config_and_first_weights_are_refused(
    finished, corpus, other_corpus, first_model, config_file, tmp_path, capsys
):
    before = content(tmp_path / "out")
    wider = tmp_path / "wider.json"
    wider.write_text(json.dumps(CONFIG.replace(moe_intermediate_size=64).to_dict()))
    for flags, message in (
        (["--data", str(other_corpus)], "data sha256"),
        (["--data", str(corpus), "--dtype", "bfloat16"], "dtype: float32 there, bfloat16 here"),
        (["--data", str(corpus), "--config", str(wider)], "config moe_intermediate_size: 32 there, 64 here"),
        (["--data", str(corpus), "--set", "seed=1"], "recipe seed: 0 there, 1 here"),
        (["--data", str(corpus), "--set", "steps=9"], "add --extend 5 with steps=4"),
    ):
        assert main([*finished, *flags]) == 2
        said = capsys.readouterr().err
        assert message in said and "Give another --out" in said and "remove it" not in said
        assert content(tmp_path / "out") == before, flags


def test_more_steps_of_the_same_run(finished, corpus, tmp_path, capsys):
    extended = [*finished, "--data", str(corpus), "--extend", "3"]
    assert main(extended) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 8))
    assert {"step": 4, "changed": "steps", "from": 4, "to": 7} in lines
    capsys.readouterr()
    assert main(extended) == 0
    assert "is finished, 7 steps" in capsys.readouterr().out
    assert main([*finished, "--data", str(corpus)]) == 2
    assert "add --extend 3 or more (it was extended)" in capsys.readouterr().err
    assert main([*finished, "--data", str(corpus), "--extend", "2"]) == 2
    assert "add --extend 3 or more" in capsys.readouterr().err
    assert main([*finished, "--data", str(corpus), "--extend", "4"]) == 0
    assert newest_state(tmp_path / "out" / "state")[1]["step"] == 8


def test_data_are_changed_deliberately(finished, other_corpus, tmp_path, capsys):
    command = [*finished, "--data", str(other_corpus), "--extend", "2"]
    assert main(command) == 2
    assert "--force-data" in capsys.readouterr().err
    assert main([*command, "--force-data"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    changed = next(line for line in lines if line.get("changed") == "data")
    assert changed["from"]["sha256"] != changed["to"]["sha256"]


def test_a_tokenizer_of_a_run_without_a_state_is_of_its_text_alone(corpus, other_corpus, config_file, tmp_path, capsys):
    """A run that ended before its first state leaves a tokenizer; another text gets one of its own, and says so."""
    out = tmp_path / "out"
    command = ["train", "--config", str(config_file), "--out", str(out), *FLAGS, "steps=4"]
    assert main([*command, "--data", str(corpus)]) == 0
    shutil.rmtree(out / "state"), (out / "report.json").unlink()
    first = (out / "tokenizer.json").read_bytes()
    assert main([*command, "--data", str(corpus)]) == 0
    assert "tokenizer.json" not in capsys.readouterr().err and (out / "tokenizer.json").read_bytes() == first
    shutil.rmtree(out / "state"), (out / "report.json").unlink()
    assert main([*command, "--data", str(other_corpus)]) == 0
    assert "was of other text, of a run without a state; replaced" in capsys.readouterr().err


def test_a_tokenizer_that_a_user_put_there_is_used(corpus, config_file, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    byte_tokenizer().save(out)
    before = (out / "tokenizer.json").read_bytes()
    command = ["train", "--config", str(config_file), "--out", str(out), "--data", str(corpus), *FLAGS, "steps=4"]
    assert main(command) == 0
    assert "is used as it is; nobody here has trained it" in capsys.readouterr().err
    assert (out / "model" / "tokenizer.json").read_bytes() == before


def test_a_missing_log_is_begun_anew(finished, corpus, tmp_path, capsys):
    (tmp_path / "out" / "log.jsonl").unlink()
    assert main([*finished, "--data", str(corpus), "--extend", "2"]) == 0
    assert "log.jsonl: is missing; a new one begins after step 4" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [5, 6]


def test_a_state_of_an_earlier_version_is_not_gone_on_with(finished, corpus, tmp_path, capsys):
    newest = states(tmp_path / "out" / "state")[-1] / "state.json"
    values = json.loads(newest.read_text())
    newest.write_text(json.dumps({"step": values["step"], "recipe": values["run"]["recipe"]}))
    assert main([*finished, "--data", str(corpus)]) == 2
    assert "its state is of version 1, this program reads version 2" in capsys.readouterr().err


def test_states_sort_by_number(tmp_path):
    for step in (999_999, 1_000_000, 1_000_001):
        save_state(tmp_path, step, {"x": torch.zeros(2)}, {}, Group())
    assert newest_state(tmp_path)[1]["step"] == 1_000_001
    assert [path.name for path in states(tmp_path)] == ["step-1000000", "step-1000001"]


def test_one_process_at_a_time(corpus, config_file, tmp_path, capsys):
    """The second is refused while the first lives, and not when it was killed."""
    out = tmp_path / "out"
    command = ["train", "--config", str(config_file), "--data", str(corpus), "--out", str(out), *FLAGS, "steps=3000"]
    with subprocess.Popen([sys.executable, "-m", "wavefold", *command], stderr=subprocess.DEVNULL) as first:
        wait_for(out / "state" / "step-000002" / "state.json")
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"is held by process {first.pid}" in said and "give another --out" in said
        first.kill()
    assert main([*command, "steps=4"]) == 2  # other steps, but the folder is free
    assert "recipe steps: 3000 there, 4 here" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_state_before_the_process_ends(corpus, config_file, tmp_path, number):
    out = tmp_path / "out"
    command = ["train", "--config", str(config_file), "--data", str(corpus), "--out", str(out), *FLAGS, "steps=3000",
               "save_every=1000"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "wavefold", *command], stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        wait_for(out / "log.jsonl")
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    steps = (out / "log.jsonl").read_text().count("\n")
    assert newest_state(out / "state")[1]["step"] == steps < 1000
    assert f"ended at step {steps}; the same command goes on from there" in said
    assert "Traceback" not in said


def test_a_second_signal_ends_at_once(corpus, config_file, tmp_path):
    from wavefold.train.stopping import Stopping

    child = os.fork()
    if child == 0:
        with Stopping():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_the_state_of_adapters_holds_adapters_alone(corpus, first_model, tmp_path):
    out = tmp_path / "out"
    command = ["train", "--init", str(first_model), "--data", str(corpus), "--out", str(out), *FLAGS, "lora_rank=2"]
    assert main([*command, "steps=4"]) == 0
    stored: dict[str, torch.Tensor] = {}
    for file in states(out / "state")[-1].glob("*.safetensors"):
        stored |= load_file(file)
    assert stored and all(".lora_a" in name or ".lora_b" in name for name in stored)
    assert main([*command, "steps=4", "--extend", "2"]) == 0
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_adapters_are_added_to_their_own_base_alone(corpus, first_model, finished, tmp_path):
    out = tmp_path / "adapted"
    command = ["train", "--init", str(first_model), "--data", str(corpus), "--out", str(out), *FLAGS, "lora_rank=2"]
    assert main([*command, "steps=4"]) == 0
    apply_adapters(load(first_model, "exact"), out / "adapters.safetensors")
    other = tmp_path / "other"
    shutil.copytree(first_model, other)
    save(random_model(load(other, "exact").config, 1, Arithmetic("exact"), packed=True), other)
    with pytest.raises(ValueError, match="holds adapters of other weights"):
        apply_adapters(load(other, "exact"), out / "adapters.safetensors")


def test_first_weights_of_another_run_are_refused(corpus, first_model, other_corpus, tmp_path, capsys):
    """The same folder with other weights in it: two bytes of scales."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(first_model, base)
    command = ["train", "--init", str(base), "--data", str(corpus), "--out", str(out), *FLAGS, "steps=4"]
    assert main(command) == 0
    for path in base.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    assert main(command) == 2
    assert "holds another run (init: " in capsys.readouterr().err


def test_another_tokenizer_of_the_same_vocabulary_is_refused(corpus, first_model, tmp_path, capsys):
    """The same ids by name, other merges: other training tokens."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(first_model, base)
    command = ["train", "--init", str(base), "--data", str(corpus), "--out", str(out), *FLAGS, "steps=4"]
    assert main(command) == 0
    values = json.loads((base / "tokenizer.json").read_text())
    values["model"]["merges"] = []
    (base / "tokenizer.json").write_text(json.dumps(values))
    assert main(command) == 2
    assert "holds another run (tokenizer: " in capsys.readouterr().err


def test_a_finished_run_whose_model_is_gone_writes_it_again(finished, corpus, tmp_path):
    shutil.rmtree(tmp_path / "out" / "model")
    assert main([*finished, "--data", str(corpus)]) == 0
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    assert main([*finished, "--data", str(corpus), "--transformers"]) == 0
    assert (tmp_path / "out" / "transformers" / "config.json").is_file()


def test_another_runs_report_without_its_state_is_not_replaced(finished, corpus, other_corpus, tmp_path, capsys):
    shutil.rmtree(tmp_path / "out" / "state")
    before = content(tmp_path / "out")
    assert main([*finished, "--data", str(other_corpus), "--set", "seed=3"]) == 2
    assert "whose state is gone; give another --out, or remove" in capsys.readouterr().err
    assert {k: v for k, v in content(tmp_path / "out").items() if "tokenizer" not in k} == {
        k: v for k, v in before.items() if "tokenizer" not in k
    }


def test_places_that_would_lose_work_are_refused(corpus, config_file, first_model, tmp_path, capsys):
    """A checkpoint's folder as OUT, OUT and --init in each other, OUT among the texts, a user's folder as OUT/model."""
    copy = tmp_path / "copy"
    shutil.copytree(first_model, copy)
    (tmp_path / "texts").mkdir()
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "thesis.txt").write_text("x")
    shutil.copytree(copy, tmp_path / "run" / "base")
    configured = ["--config", str(config_file)]
    for flags, message in (
        (["--out", str(copy), *configured], "holds a checkpoint"),
        (["--out", str(copy / "run"), "--init", str(copy)], "lie in each other"),
        (["--out", str(tmp_path / "run"), "--init", str(tmp_path / "run" / "base")], "lie in each other"),
        (["--out", str(tmp_path / "texts" / "run"), "--data", str(tmp_path / "texts"), *configured], "be trained on"),
        (["--out", str(tmp_path / "mine"), *configured], "is no checkpoint"),
        (["--out", str(tmp_path / "x"), "--init", str(copy), *configured], "which has its own; leave one"),
    ):
        assert main(["train", "--data", str(corpus), *flags]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine" / "model" / "thesis.txt").read_text() == "x"


def heed_interrupts() -> None:
    """In a child: a suite that runs in the background ignores Ctrl-C, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(path: Path) -> None:
    ended = time.monotonic() + 120
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < ended, f"{path} never appeared"
        time.sleep(0.05)
