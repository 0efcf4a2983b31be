"""Files with values that no product can be right with, and files that cannot be read: one failure, and its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.doctor import harms
from tests.gguf_files import TINY
from wavefold import ops
from wavefold.doctor import CHECKS, Card, Patient, examine
from wavefold.doctor.sampling import chosen
from wavefold.doctor.values import ROWS
from wavefold.locate import default_model
from wavefold.ops import native

MADE = default_model()
COMPUTING = {check.name for check in CHECKS if check.computes}
CHEAP = [check for check in CHECKS if check.name not in ("memory", "disk")]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


def failures(card: Card) -> list[tuple[str, str]]:
    return [(finding.check, finding.part) for finding in card.failures]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_arithmetic_is_not_blamed_for_the_files_values(value: float, tmp_path: Path) -> None:
    def change(of: dict[str, Tensor]) -> Mapping[str, Tensor]:
        norm = of["layers.1.attn_norm.weight"].clone()
        norm[3] = value
        return {"layers.1.attn_norm.weight": norm}

    card = examine(Patient(harms.with_tensors(MADE, tmp_path / "model", change)), checks=CHEAP)
    assert [finding.check for finding in card.failures] == ["values"]
    assert "layers.1.attn_norm.weight" in card.failures[0].text
    said = {finding.check: finding for finding in card.findings if finding.check in COMPUTING}
    assert said.keys() == COMPUTING
    assert {finding.text for finding in said.values()} == {"the file's values are wrong: see values"}


def test_nan_that_no_sampled_row_has_is_seen_by_the_likelihood(tmp_path: Path) -> None:
    def change(of: dict[str, Tensor]) -> Mapping[str, Tensor]:
        embed = torch.full_like(of["embed.weight"], float("nan"))
        rows = chosen(len(embed), ROWS)
        embed[rows] = of["embed.weight"][rows]
        return {"embed.weight": embed}

    card = examine(Patient(harms.with_tensors(MADE, tmp_path / "model", change)), checks=CHEAP)
    assert failures(card) == [("likelihood", "text")]
    assert "by plain torch too" in card.failures[0].text
    assert "the file's values are wrong: see likelihood" in {finding.text for finding in card.findings}


def test_nan_of_a_kernel_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = native.linear
    monkeypatch.setattr(native, "linear", lambda *args, **more: float("nan") * linear(*args, **more))
    names = ("structure", "load", "likelihood", "products")
    card = examine(Patient(MADE), checks=[check for check in CHECKS if check.name in names])
    assert {finding.check for finding in card.failures} == {"likelihood", "products"}
    assert "one by plain torch" in card.failures[0].text


def test_an_unreadable_gguf_file_is_one_failure(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(TINY.read_bytes()[:-1000])
    card = examine(Patient(path), checks=CHECKS)
    assert failures(card) == [("structure", "file")]
    assert card.failures[0].advice == "download or convert the file again"
    assert not any("refs" in finding.text for finding in card.findings)


@pytest.mark.parametrize(("name", "check"), [("config.json", "structure"), ("tokenizer.json", "tokenizer"),
                                             ("tokenizer_config.json", "template")])  # fmt: skip
def test_broken_json_is_one_failure(name: str, check: str, tmp_path: Path) -> None:
    folder = harms.copied(MADE, tmp_path / "model")
    (folder / name).write_text('{"a": ')
    checks = [one for one in CHECKS if one.name in ("structure", "profile", "tokenizer", "template", "load")]
    card = examine(Patient(folder), checks=checks)
    assert [finding.check for finding in card.failures] == [check]
    assert name in card.failures[0].text + card.failures[0].advice


def test_a_folder_without_a_tokenizer_says_what_to_add(tmp_path: Path) -> None:
    folder = harms.copied(MADE, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    [finding] = examine(Patient(folder), checks=[check for check in CHECKS if check.name == "tokenizer"]).findings
    assert finding.status == "skipped" and "add tokenizer.json" in finding.advice
