"""The adapters in package data: small, offered beside the model that ships, and right about questions never trained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavefold import LLM, Sampling
from wavefold.data.specialists import SPECIALISTS, specialist
from wavefold.locate import DEFAULT_MODEL
from wavefold.pool.folder import entries

SHIPPED = DEFAULT_MODEL.parent
ROOT = Path(__file__).parents[1]
MISSING = "is not installed: pip install wavefold[specialists]"
NAMES = sorted(SPECIALISTS)
CASES, SEED = 40, 1
"""Other cases than those of the cards, whose seed is 0."""
LEAST_RIGHT = {"cron": 38, "dates": 34, "units": 26}
"""Two or three standard errors below what the cards say: 99.8, 96.5 and 80.4 %."""


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(DEFAULT_MODEL, adapters={name: SHIPPED / name for name in NAMES}, threads=1) as llm:
        yield llm


def test_a_folder_of_models_offers_them_all() -> None:
    found = entries(SHIPPED)
    assert list(found) == ["default", *(f"default:{name}" for name in NAMES)]
    assert not [entry.fault for entry in found.values() if entry.fault]


def test_each_is_small_and_all_that_ships_is_under_16_megabytes() -> None:
    assert all(entries(SHIPPED)[f"default:{name}"].num_bytes <= 600_000 for name in NAMES)
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 16_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_specialist_answers_what_its_base_cannot(llm: LLM, name: str) -> None:
    for package in {"cron": ("croniter", "cron_descriptor"), "dates": ("dateparser",), "units": ("pint",)}[name]:
        pytest.importorskip(package, reason=f"{package} {MISSING}")
    cases = specialist(name).cases(SEED, CASES, True)
    right = {}
    for adapter in (name, None):
        as_asked = Sampling(max_tokens=64) if adapter else Sampling(temperature=0, max_tokens=64)
        streams = [llm.stream_chat(case.chat[:1], as_asked, adapter=adapter) for case in cases]
        answers = [stream.finish().text or "" for stream in streams]
        right[adapter] = sum(specialist(name).judge(case, answer) for case, answer in zip(cases, answers, strict=True))
    assert right[name] >= LEAST_RIGHT[name] and right[None] <= CASES // 10


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_greedy_as_those_that_were_counted(llm: LLM, name: str) -> None:
    assert json.loads((SHIPPED / name / "generation_config.json").read_text()) == {"do_sample": False}
    assert llm.resolved(Sampling(), name).temperature == 0 < llm.resolved(Sampling()).temperature


EXAMPLE = re.compile("^    (.+?)  ->  (.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_cards_and_documents_are_answered_so(llm: LLM, name: str) -> None:
    card = (SHIPPED / name / "README.md").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    in_table = re.search(rf"^\| `specialist:{name}` \| (.+?): `(.+?)`", table, re.MULTILINE)
    assert in_table is not None
    examples = [*EXAMPLE.findall(card), in_table.groups()]
    assert len(examples) == 2
    for question, answer in examples:
        assert llm.chat([{"role": "user", "content": question}], adapter=name).text == answer


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_was_reached(name: str) -> None:
    card = (SHIPPED / name / "README.md").read_text(encoding="utf-8")
    assert "Held-out questions answered rightly" in card and "%" in card
    assert (
        json.loads((SHIPPED / name / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "wavefold/models/default"
    )
