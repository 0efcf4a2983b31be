"""Commands that are killed at random, or run into a full disk: the next same command goes on to the same files.

A forked process runs the command, is sent SIGKILL, SIGTERM or SIGINT, and another one runs the command again. What is
there then is what a command that nobody disturbed leaves: the identical curve, the identical files, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.disks import small_disk
from tests.train.tiny import CONFIG, write_corpus
from wavefold import load, save
from wavefold.cli.main import main, notices
from wavefold.train.state import states

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FLAGS = ["--dtype", "float32", "--threads", "1", "--set", "length_stages=((0,80),)", "batch_tokens=160", "warmup=2",
         "decay_steps=2", "eval_every=3", "save_every=2", "steps=7"]  # fmt: skip

Command = Callable[[Path], int]
"""Writes into a folder; returns an exit code."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, a corpus and a model, for commands to read."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    write_corpus(folder / "corpus")
    assert (
        in_child(lambda: main(["init", "--config", str(folder / "config.json"), "--out", str(folder / "model")])) == 0
    )
    return folder


def commands(material: Path) -> dict[str, Command]:
    config, corpus, model = (str(material / name) for name in ("config.json", "corpus", "model"))
    training = ["train", "--data", corpus, "--transformers", *FLAGS]

    def copy(out: Path) -> int:
        with notices():
            save(load(model, "exact"), out / "model", experts="bf16")
        return 0

    return {
        "init": lambda out: main(["init", "--config", config, "--force", "--out", str(out / "model")]),
        "save": copy,
        "train": lambda out: main([*training, "--config", config, "--out", str(out / "run")]),
        "adapters": lambda out: main([*training, "lora_rank=2", "--init", model, "--out", str(out / "run")]),
    }


def in_child(command: Callable[[], int], kill: tuple[float, int] | None = None, said: Path | None = None) -> int:
    """The exit code of `command` in a forked process, which gets a signal after some seconds; minus the signal's number
    where it died of it. `said`: the file that its output goes to."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            output = os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1), os.dup2(output, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            signal.signal(signal.SIGINT, signal.default_int_handler)
            torch.set_num_threads(1)  # a forked process has none of its parent's threads
            code = command()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    if kill is not None:
        ends = time.monotonic() + kill[0]
        while time.monotonic() < ends:
            if os.waitpid(child, os.WNOHANG)[0]:
                return 0  # it was faster
            time.sleep(0.002)
        os.kill(child, kill[1])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(folder: Path) -> dict[str, str]:
    """Hashes of all files, without what differs between any two runs: times, process numbers, older states."""
    older = {path.name for path in states(folder / "run" / "state")[:-1]}
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or "tensorboard" in name.parts or older & set(name.parts) or path.name == ".lock":
            continue
        data = path.read_bytes()
        if "state" in name.parts and path.suffix == ".safetensors":  # its metadata come in a random order
            tensors = load_file(path)
            data = b"".join(
                f"{key} {t.dtype} {list(t.shape)}".encode() + t.numpy().tobytes() for key, t in tensors.items()
            )
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]).encode()
        if path.name == "report.json":
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "hours"}).encode()
        found[str(name)] = hashlib.sha256(data).hexdigest()
    return found


class Undisturbed:
    """What a command leaves, and how long it takes, when nobody disturbs it."""

    def __init__(self, command: Command, folder: Path):
        folder.mkdir()
        began = time.monotonic()
        assert in_child(lambda: command(folder), said=folder.with_suffix(".said")) == 0, said_in(folder)
        self.seconds = time.monotonic() - began
        self.content = content(folder)


def said_in(folder: Path) -> str:
    return folder.with_suffix(".said").read_text()[-2000:]


def kill_and_go_on(command: Command, undisturbed: Undisturbed, folder: Path, rng: random.Random) -> bool:
    """True if the signal met the command at work."""
    folder.mkdir()
    kill = (rng.uniform(0, 1.05 * undisturbed.seconds), rng.choice(SIGNALS))
    code = in_child(lambda: command(folder), kill, folder.with_suffix(".said"))
    assert code in (0, -kill[1], 128 + kill[1], 99 if kill[1] == signal.SIGINT else 0), (kill, code, said_in(folder))
    assert in_child(lambda: command(folder), said=folder.with_suffix(".said")) == 0, (kill, said_in(folder))
    assert content(folder) == undisturbed.content, (kill, said_in(folder))
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"], kill
    return code != 0


def many_kills(name: str, number: int, material: Path, tmp_path: Path) -> int:
    """How many of `number` signals met the command at work."""
    command, rng = commands(material)[name], random.Random(name)
    undisturbed = Undisturbed(command, tmp_path / "undisturbed")
    return sum(kill_and_go_on(command, undisturbed, tmp_path / f"killed{i}", rng) for i in range(number))


@pytest.mark.parametrize("name", ["init", "save", "train", "adapters"])
def test_a_killed_command_goes_on_to_the_same_files(name: str, material: Path, tmp_path: Path) -> None:
    many_kills(name, 1, material, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("init", 40), ("save", 40), ("train", 120), ("adapters", 60)])
def test_many_killed_commands(name: str, number: int, material: Path, tmp_path: Path) -> None:
    met = many_kills(name, number, material, tmp_path)
    print(f"{name}: {number} signals, {met} at work")
    assert met >= number // 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("init", 5), ("save", 5), ("train", 20), ("adapters", 10)])
def test_a_full_disk(name: str, number: int, material: Path, tmp_path: Path) -> None:
    command, rng = commands(material)[name], random.Random(name)
    undisturbed = Undisturbed(command, tmp_path / "undisturbed")
    needed = sum(path.stat().st_size for path in (tmp_path / "undisturbed").rglob("*") if path.is_file())
    met = 0
    for number_of_try in range(number):
        folder = tmp_path / f"full{number_of_try}"
        with small_disk(folder, int(rng.uniform(0.02, 1) * needed / 1000) + 4) as enlarge:
            code = in_child(lambda: command(folder), said=folder.with_suffix(".said"))  # noqa: B023
            assert code in (0, 2, 99 if name == "save" else 2), (code, said_in(folder))
            assert code == 99 or "Traceback" not in said_in(folder), said_in(folder)
            met += code != 0
            enlarge()
            assert in_child(lambda: command(folder), said=folder.with_suffix(".said")) == 0, said_in(folder)  # noqa: B023
            assert content(folder) == undisturbed.content, said_in(folder)
    print(f"{name}: {number} small disks, {met} full")
    assert met >= number // 2
