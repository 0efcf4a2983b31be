"""The tuner with a clock that is made up: it finds the fastest, keeps the usual where it must, measures once."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from wavefold.bench import stopwatch, tunings
from wavefold.bench.stopwatch import Stopwatch, last_cache_bytes
from wavefold.bench.tune import FORMS, sweep, tune
from wavefold.cli import tuning as flag
from wavefold.cli.main import main
from wavefold.ops import Runtime, current, native
from wavefold.ops.tuning import Tuning, usual
from wavefold.plan import measured

USUAL = Tuning("l2", 8192, 24, 0, "none")
IDENTITY = {"cpu": "a processor", "threads": 2, "torch": "2", "abi": 10, "isa": "avx2"}
needs_kernels = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


class Clock:
    """Seconds of a machine whose best tuning is `best`: each field that differs costs `cost`."""

    def __init__(self, best: Tuning, cost: float = 0.2, noise: float = 0.0):
        self.best, self.cost, self.noise = best, cost, noise
        self.calls = 0
        self._drawn = random.Random(0)

    def __call__(self, tuning: Tuning, form: str, x_rows: int) -> float:
        self.calls += 1
        seconds = 1.0
        if (form, x_rows) == ("bf16", 1):
            seconds += self.cost * (tuning.plain_hint != self.best.plain_hint)
        elif x_rows == 1 or (form, x_rows) == ("bf16", 4):
            seconds += self.cost * (tuning.hint != self.best.hint) + self.cost * (tuning.ahead != self.best.ahead)

        def in_float(t: Tuning) -> bool:
            return 0 < t.float_rows <= x_rows

        seconds += self.cost * (in_float(tuning) != in_float(self.best))
        seconds += self.cost * ((x_rows > tuning.few_rows) != (x_rows > self.best.few_rows))
        return seconds * (1 + self.noise * self._drawn.random())


def quiet(step: str) -> None:
    pass


@pytest.mark.parametrize(
    "best",
    [
        USUAL,
        Tuning("stream", 8192, 24, 0, "none"),
        Tuning("l3", 2048, 24, 4, "none"),
        Tuning("none", 8192, 64, 0, "none"),
        Tuning("l1", 32768, 8, 1, "none"),
        Tuning("l2", 16384, 1, 512, "none"),
        Tuning("l2", 1024, 96, 64, "none"),
        Tuning("l2", 8192, 24, 0, "l3"),
        Tuning("stream", 2048, 24, 0, "l1"),
    ],
)
def test_the_fastest_is_found(best: Tuning) -> None:
    for noise in (0.0, 0.01):
        assert tune(Clock(best, noise=noise), USUAL, True, 3, quiet).chosen == best


def test_an_unusual_machine_gets_back_what_others_start_with() -> None:
    intel = Tuning("l3", 8192, 24, 4, "none")
    assert tune(Clock(USUAL), intel, True, 3, quiet).chosen == USUAL
    assert tune(Clock(intel), intel, True, 3, quiet).chosen == intel


def test_float_rows_stay_where_there_is_one_kind() -> None:
    assert tune(Clock(Tuning("l2", 8192, 24, 4, "none")), USUAL, False, 3, quiet).chosen == USUAL


def test_the_usual_stays_unless_it_is_worth_it() -> None:
    assert tune(Clock(Tuning("l1", 4096, 48, 8, "none"), cost=0.015 / 2), USUAL, True, 3, quiet).chosen == USUAL
    assert tune(Clock(USUAL, cost=0.0, noise=0.2), USUAL, True, 3, quiet).chosen == USUAL


def test_one_slow_turn_decides_nothing() -> None:
    """Other load makes every seventh call ten times as slow."""
    best = Tuning("l1", 16384, 48, 0, "none")
    clock = Clock(best)

    def disturbed(tuning: Tuning, form: str, x_rows: int) -> float:
        return clock(tuning, form, x_rows) * (10 if clock.calls % 7 == 0 else 1)

    assert tune(disturbed, USUAL, True, 4, quiet).chosen == best


def test_a_full_sweep_says_what_was_missed() -> None:
    found = tune(Clock(Tuning("l1", 4096, 24, 0, "none")), USUAL, True, 3, quiet)
    assert sweep(Clock(Tuning("l1", 4096, 24, 0, "none")), found, 2, quiet)[0].gain == pytest.approx(0)
    best = sweep(Clock(Tuning("stream", 16384, 24, 0, "none")), found, 2, quiet)[0]
    assert (best.tuning.hint, best.tuning.ahead) == ("stream", 16384) and best.gain == pytest.approx(1 - 1 / 1.4)


def test_stored_by_identity(tmp_path: Path) -> None:
    path, other = tmp_path / "wavefold" / "machine.json", Tuning("none", 0, 1, 0, "none")
    assert tunings.stored(path, IDENTITY) is None
    tunings.keep(path, IDENTITY, USUAL)
    tunings.keep(path, IDENTITY | {"threads": 1}, other)
    measured.keep(path, "rates", {"cpu": "kept"})
    assert tunings.stored(path, IDENTITY) == USUAL and tunings.stored(path, IDENTITY | {"threads": 1}) == other
    for field, value in {"cpu": "b", "threads": 3, "torch": "3", "abi": 11, "isa": "avx512"}.items():
        assert tunings.stored(path, IDENTITY | {field: value}) is None
    tunings.keep(path, IDENTITY, other)
    assert tunings.stored(path, IDENTITY) == other and measured.read(path)["rates"] == {"cpu": "kept"}
    assert len(measured.read(path)["tunings"]) == 2
    assert os.stat(path).st_mode & 0o777 == 0o600 and os.listdir(path.parent) == ["machine.json"]


def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    wrong = {
        "identity": IDENTITY,
        "tuning": {"hint": "l9", "ahead": 0, "few_rows": 1, "float_rows": 0, "plain_hint": "l2"},
    }
    for text in ("{", "[]", '{"tunings": 3}', '{"tunings": [3]}', json.dumps({"tunings": [wrong]})):
        path.write_text(text)
        assert tunings.stored(path, IDENTITY) is None
    tunings.keep(path, IDENTITY, USUAL)
    assert tunings.stored(path, IDENTITY) == USUAL


def test_an_interrupted_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "machine.json"
    tunings.keep(path, IDENTITY, USUAL)
    before = path.read_bytes()

    def fail(*names: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        tunings.keep(path, IDENTITY, Tuning("none", 0, 1, 0, "none"))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["machine.json"]


def test_caches_of_the_last_level_are_added(tmp_path: Path) -> None:
    for cpu, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cache/index3"
        folder.mkdir(parents=True)
        (folder / "shared_cpu_list").write_text(shared)
        (folder / "size").write_text("32768K\n")
    assert last_cache_bytes(tmp_path) == 64 << 20 and last_cache_bytes(tmp_path / "none") == 0


@needs_kernels
def test_the_real_clock_times_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "LEAST", 1 << 20)
    monkeypatch.setattr(stopwatch, "last_cache_bytes", lambda: 0)
    monkeypatch.setattr(stopwatch, "ROWS", 256)
    watch = Stopwatch(1, FORMS)
    assert watch.num_bytes >= 3 << 20
    for form in FORMS:
        assert all(watch(usual(), form, x_rows) > 0 for x_rows in (1, 8, 16))


@needs_kernels
def test_who_measures_and_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """`bench tune` once, benches where nobody has, `run` never; a flag and the variable stop both."""
    best, clocks = Tuning("l1", 4096, 24, 0, "none"), []

    def clock(threads: int, forms: object) -> Clock:
        clocks.append(Clock(best._replace(few_rows=usual().few_rows, float_rows=usual().float_rows)))
        return clocks[-1]

    def in_use(text: str | None, measures: bool, alone: bool = True) -> Tuning:
        with Runtime().active(), flag.tuned(text, None, measures, alone):
            return current().tuning

    monkeypatch.setattr(stopwatch, "Stopwatch", clock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert in_use(None, True) == usual() and in_use("ahead=64", True) == usual()._replace(ahead=64) and not clocks
    monkeypatch.delenv("WAVEFOLD_TUNING")
    assert in_use(None, False) == usual() and in_use("usual", True) == usual() and not clocks
    found = in_use(None, True)
    assert (found.hint, found.ahead) == ("l1", 4096) and len(clocks) == 1
    assert in_use(None, True) == in_use(None, False) == found and len(clocks) == 1
    assert in_use(None, False, alone=False) == usual() == in_use("usual", False)
    assert main(["bench", "tune"]) == 0 and len(clocks) == 1
    assert f"measured before, in {tmp_path}/wavefold/machine.json; --again" in capsys.readouterr().out.replace("\n", "")
    assert main(["bench", "tune", "--again", "--full", "--out", str(tmp_path / "lines")]) == 0 and len(clocks) == 2
    printed = capsys.readouterr().out
    assert f"chosen  {found}" in printed and f"usual   {usual()}" in printed and "within 3%" in printed
    assert json.loads((tmp_path / "lines").read_text().splitlines()[0])["bench"] == "tune"
    monkeypatch.setenv("WAVEFOLD_TUNING", "ahead=128")
    assert in_use(None, False).ahead == 128
    with pytest.raises(ValueError, match="--tuning ahead=x: tuning ahead = 'x' is not allowed"):
        in_use("ahead=x", False)
