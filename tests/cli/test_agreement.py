"""Ranks agree before they compute: a difference or a failure is one message on every rank, within seconds."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.processes import by_hand
from tests.small import SMALL_WITH_TEXT, small_model
from tests.train.tiny import CONFIG as TINY
from tests.train.tiny import write_corpus
from wavefold.waves import agreement

pytestmark = pytest.mark.dist

CONFIG = SMALL_WITH_TEXT
SHARED = ("--max-tokens", "4", "--threads", "1")
SCALE = "layers.1.ffn.experts.3.w2.scale"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("agreement") / "model", CONFIG, 0)


def run(model: Path, *flags: str) -> tuple[str, ...]:
    return ("-m", "wavefold", "run", str(model), *SHARED, *flags)


def refused(*results: subprocess.CompletedProcess[str]) -> list[str]:
    """What each rank says: one line and exit code 2."""
    for result in results:
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert result.stderr.startswith("wavefold: error: ") and result.stderr.count("\n") == 1, result.stderr
    return [result.stderr.removeprefix("wavefold: error: ").strip() for result in results]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("-p", "def"), ("-p", "del"), "prompt differs: rank 0"),
        (("-p", "a", "--seed", "1"), ("-p", "a", "--seed", "2"), "seed differs: rank 0 has 1, rank 1 has 2;"),
    ],
)
def test_different_flags_are_refused_on_every_rank(
    model: Path, first: tuple[str, ...], second: tuple[str, ...], message: str
) -> None:
    one, two = refused(*by_hand(run(model, *first), run(model, *second)))
    assert one == two
    assert one.startswith(message)
    assert one.endswith("; expected the same on all ranks")


def test_scales_that_differ_in_two_bytes_are_refused_on_every_rank(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    for path in other.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        if entry := json.loads(content[8:start]).get(SCALE):
            begin = start + entry["data_offsets"][0]
            content[begin] ^= 1
            content[begin + 3] ^= 1
            path.write_bytes(content)
    one, two = refused(*by_hand(run(model, "-p", "a"), run(other, "-p", "a")))
    assert one == two
    assert one.startswith(f"weights differ: {SCALE} has the digest ")


def test_a_rank_that_fails_tells_the_others(model: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    one, two = refused(*by_hand(run(model, "-p", "a"), run(model, "--tokens", nowhere)))
    assert two.startswith(f"--tokens {nowhere}: cannot be read (No such file or directory)")
    assert one == f"rank 1 failed before the start: {two}"


def test_a_rank_that_is_killed_ends_the_others(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from wavefold.engine import open as opening\n"
        "opening._load_over_ranks = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from wavefold.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    one, two = by_hand(run(model, "-p", "a"), (str(script), *run(model, "-p", "a")[2:]))
    assert two.returncode == -signal.SIGKILL
    assert refused(one) == ["another rank was lost before the start; expected the cause in its own output"]


def test_ranks_that_agree_answer(model: Path) -> None:
    one, two = by_hand(run(model, "-p", "a", "--json"), run(model, "-p", "a", "--json"))
    assert (one.returncode, two.returncode, two.stdout) == (0, 0, ""), one.stderr + two.stderr
    assert json.loads(one.stdout)["completion_tokens"] == 4


def test_a_rank_that_is_alone_stops_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "JOIN_S", 1)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    message = r"rank 1 of 2 did not meet the others at 127.0.0.1:1 within 1 s"
    with pytest.raises(ValueError, match=message), agreement.joined():
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"seed": 1}, {"seed": 1}, {"seed": 3}], "seed differs: rank 0 has 1, rank 2 has 3; expected the same"),
        (
            [{"prompt": [0] * 90 + [1, 5]}, {"prompt": [0] * 90 + [2, 5]}],
            r"rank 0 has \.\.\.(0, ){10}1, 5\], rank 1 has \.\.\.(0, ){10}2, 5\];",
        ),
        ([{"prompt": list(range(90))}, {"prompt": [1]}], r"rank 0 has \[0, 1, .*\.\.\., rank 1 has \[1\];"),
        ([{"seed": 1}, "no such file"], "rank 1 failed before the start: no such file"),
        (
            [{"weights": {"a": "01", "b": "02"}}, {"weights": {"b": "03", "c": "04"}}],
            "weights differ: b has the digest 02",
        ),
    ],
)
def test_what_a_difference_is_told_as(values: list[Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(len(values)))
    monkeypatch.setattr(agreement, "_exchange", lambda mine: values)
    with pytest.raises(agreement.Disagreement, match=message):
        agreement.check_alike(values[0])


def test_what_only_one_rank_has_of_the_weights_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [{"weights": {"a": "01", "b": "02"}}, {"weights": {"b": "02", "c": "04"}}]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(agreement, "_exchange", lambda mine: values)
    agreement.check_alike(values[0])


def test_a_training_run_over_ranks_is_one_run(tmp_path: Path) -> None:
    """Other seeds, other texts: refused on every rank before the first step."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY.to_dict()))
    corpora = [write_corpus(tmp_path / name) for name in ("first", "second")]
    (corpora[1] / "file3.py").write_text("def other(x):\n    return x\n" * 9)
    common = ("-m", "wavefold", "train", "--config", str(config), "--out", str(tmp_path / "out"), "--threads", "1",
              "--dtype", "float32", "--set", "steps=2", "length_stages=((0,80),)", "batch_tokens=320")  # fmt: skip
    for first, second, message in (
        (("--data", str(corpora[0])), ("--data", str(corpora[1])), "data differs: rank 0 has"),
        (("--data", str(corpora[0])), ("--data", str(corpora[0]), "--dtype", "bfloat16"), "dtype differs: rank 0 has"),
    ):
        for result in by_hand((*common, *first), (*common, *second)):
            assert result.returncode == 2, result.stderr
            assert message in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "state").exists()
