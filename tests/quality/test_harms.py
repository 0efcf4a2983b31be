"""Deliberate harms to the shipped model, each visible in the card; what two clean readings give is no difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quality.harms import HARMS, copy, edit_json, kv_rounded_twice, no_end_mark, window_127
from wavefold import ops
from wavefold.locate import DEFAULT_MODEL
from wavefold.quality.chats import Chats
from wavefold.quality.passages import load_texts, passages_of
from wavefold.quality.reading import Reading
from wavefold.quality.settings import Settings
from wavefold.quality.subject import Subject

SETTINGS = Settings(1536)
OF_TEXT = [name for name, harm in HARMS.items() if harm is not no_end_mark]


def reading(folder: Path | None, num_bytes: int = SETTINGS.text_bytes) -> Reading:
    """One passage of code, which reaches beyond the window and the denser entries."""
    code = [(kind, text) for kind, text in load_texts(None) if kind == "code"]
    return Reading(passages_of(code, num_bytes)[:1], folder)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    part, subject = reading(folder), Subject(None, SETTINGS)
    for unit in part.units():
        part.record(subject, unit)
    subject.close()
    return folder


def measured(
    part: Reading, model: Path, harm: Callable[[Subject], None] = lambda subject: None
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """Value and standard error of each figure of all texts."""
    subject = Subject(model, SETTINGS)
    try:
        harm(subject)
        figures = part.figures([part.measure(subject, unit) for unit in part.units()])
    finally:
        subject.close()
    return {figure.name: (figure.value, figure.se) for figure in figures if figure.of == "all"}


def test_a_clean_copy_is_the_same(recorded, tmp_path):
    figures = measured(reading(recorded), copy(tmp_path / "model"))
    assert figures["KL to the other model"][0] == 0 and figures["same best token"][0] == 1
    assert figures["texts with the other model's ids"][0] == 1


@pytest.mark.parametrize("name", OF_TEXT)
def test_a_harm_is_visible(name, recorded, tmp_path):
    """By KL, of which a clean copy has none, and beyond three of its standard errors."""
    HARMS[name](copy(tmp_path / "model"))
    figures = measured(reading(recorded), tmp_path / "model")
    value, error = figures["KL to the other model"]
    assert value > 3 * error > 0
    assert (figures["texts with the other model's ids"][0] == 1) == (name != "wrong tokenizer merges")


def test_a_window_of_127_is_visible(recorded, tmp_path):
    value, error = measured(reading(recorded), DEFAULT_MODEL, window_127)["KL to the other model"]
    assert value > 3 * error > 0
    folder = copy(tmp_path / "model")
    edit_json(folder / "config.json", lambda values: values.update(sliding_window=127))
    with pytest.raises(ValueError, match="sliding_window = 127 is not allowed"):
        Subject(folder, SETTINGS)


def test_kv_that_is_rounded_twice_is_visible(tmp_path, monkeypatch):
    monkeypatch.setattr(Settings, "batch_invariant", False)  # which the references are not
    part = reading(tmp_path, 900)
    with ops.using(backend="reference"):
        subject = Subject(None, SETTINGS)
        for unit in part.units():
            part.record(subject, unit)
        subject.close()
        clean = measured(part, DEFAULT_MODEL)
        with kv_rounded_twice():
            harmed = measured(part, DEFAULT_MODEL)
    assert clean["KL to the other model"][0] == 0
    value, error = harmed["KL to the other model"]
    assert value > 3 * error > 0


def test_a_template_without_the_end_mark_is_visible(tmp_path):
    no_end_mark(copy(tmp_path / "model"))
    part = Chats(Settings(256))
    units = part.units()[1:3]
    found = []
    for model in (DEFAULT_MODEL, tmp_path / "model"):
        subject = Subject(model, Settings(256))
        figures = part.figures([part.measure(subject, unit) for unit in units])
        found.append({figure.name: figure.value for figure in figures})
        subject.close()
    clean, harmed = found
    for name in ("right answers with the end mark after them", "chats that the template writes as V4's encoding"):
        assert (clean[name], harmed[name]) == (1, 0)
    assert harmed["nats per token"] != clean["nats per token"]
