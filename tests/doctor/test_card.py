"""`wavefold doctor` as a command, and some of the 30 clean files (tests/doctor/clean_files.py has them all)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor import harms
from tests.doctor.clean_files import FEW, FILES
from tests.small import SMALL_WITH_TEXT, small_model
from wavefold import ops
from wavefold.cli.main import main
from wavefold.doctor import CHECKS, Patient, examine
from wavefold.engine.open import open_model
from wavefold.experts.streamed import StreamedExperts

Capture = pytest.CaptureFixture[str]
CHEAP = [check for check in CHECKS if check.name not in ("memory", "disk")]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


def test_there_are_thirty_clean_files() -> None:
    assert len(FILES) >= 30


@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("ignore::wavefold.system.Notice")
def test_no_false_alarm(name: str, tmp_path: Path) -> None:
    assert examine(Patient(FEW[name](tmp_path / "model")), checks=CHEAP).failures == []


@pytest.mark.filterwarnings("ignore::wavefold.system.Notice")
def test_no_false_alarm_beside_the_original(tmp_path: Path) -> None:
    original = small_model(tmp_path / "model")
    converted = tmp_path / "converted.gguf"
    assert main(["convert", str(original), str(converted)]) == 0
    assert examine(Patient(converted, original), checks=CHEAP).failures == []


def test_no_false_alarm_where_experts_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Patient(small_model(tmp_path / "model"))
    monkeypatch.setattr(patient, "open", lambda: setattr(patient, "model", open_model(patient.path, num_slots=3)))
    card = examine(patient, checks=CHEAP)
    assert isinstance(patient.model.experts.store, StreamedExperts)
    assert card.failures == []


def test_a_healthy_file_is_0_and_a_card(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "card.json"
    assert main(["doctor", str(small_model(tmp_path / "model")), "--json", str(path)]) == 0
    card = json.loads(path.read_text())
    assert card["healthy"]
    assert {finding["status"] for finding in card["findings"]} == {"pass", "skipped"}
    assert {finding["check"] for finding in card["findings"]} == {check.name for check in CHECKS}
    assert "0 failed" in capsys.readouterr().out


def test_a_sick_file_is_1_and_named(tmp_path: Path, capsys: Capture) -> None:
    model = harms.with_config(small_model(tmp_path / "model"), tmp_path / "sick", sliding_window=127)
    assert main(["doctor", str(model)]) == 1
    assert "sliding_window" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nowhere"], ["--seconds", "0"], ["--against", "nowhere"],
                                       ["--json", "nowhere/card.json"]])  # fmt: skip
def test_a_mistake_is_2(arguments: list[str], capsys: Capture) -> None:
    assert main(["doctor", *arguments]) == 2
    assert arguments[-1] in capsys.readouterr().err


def test_an_error_inside_a_check_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(patient: Patient) -> Iterator[None]:
        raise RuntimeError("as if")
        yield

    card = examine(Patient(tmp_path), checks=[CHECKS[0]._replace(name="broken", run=broken)])  # type: ignore[arg-type]
    assert [(finding.check, finding.status) for finding in card.findings] == [("broken", "fail")]
    assert "as if" in card.findings[0].text


def test_keys_without_a_release_are_held_against_the_other_file(tmp_path: Path) -> None:
    original = small_model(tmp_path / "model", SMALL_WITH_TEXT)
    sick = harms.with_config(original, tmp_path / "sick", index_topk=4, rms_norm_eps=1e-5)
    found = {finding.part for finding in examine(Patient(sick, original), checks=CHEAP).failures}
    assert found == {"index_topk", "rms_norm_eps"}
