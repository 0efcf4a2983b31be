"""`Sampling`: every field out of range is named with its value and what is allowed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from tests.small import SMALL
from wavefold.engine.adjust import Adjustments
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.sampling import Sampling

NAN, INF = float("nan"), float("inf")
REFUSED: list[tuple[str, list[Any], str]] = [
    ("max_tokens", [0, -5], "expected 1 or more"),
    ("temperature", [-0.1, NAN, INF], r"expected 0 \(the most likely token\) or more"),
    ("top_p", [0, -1, 1.01, NAN], "expected a number above 0, at most 1"),
    ("seed", [-1, 2**63], r"expected 0 to 2\^63 - 1"),
    ("stop_ids", [(3, -1)], "expected token ids from 0 on"),
    ("top_k", [-1, 2**63], r"expected 0 \(all tokens\) or more"),
    ("min_p", [-0.1, 1.1, NAN], "expected a number from 0 to 1"),
    ("repetition_penalty", [0, -1, NAN, INF], r"expected a number above 0 \(1: no penalty\)"),
    ("presence_penalty", [-2.1, 2.1, NAN], "expected a number from -2 to 2"),
    ("frequency_penalty", [-2.1, 2.1, NAN], "expected a number from -2 to 2"),
    ("logit_bias", [{40: 1}, {-1: 1}], "expected token ids from 0 to 39"),
    ("logit_bias", [{0: 101}, {0: -101}, {0: NAN}], "expected biases from -100 to 100"),
    ("stop", [("a", "")], "expected texts of one character or more"),
    ("logprobs", [-1, 21], "expected None, or 0 to 20 tokens"),
    ("prompt_logprobs", [-1, 21], "expected None, or 0 to 20 tokens"),
    ("n", [0, 129], "expected 1 to 128 answers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "expected"), [(field, value, text) for field, values, text in REFUSED for value in values]
)
def test_refused(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} = .* is not allowed; {expected}$") as error:
        Sampling(**{field: value}).check(40)
    assert repr(value) in str(error.value)


def test_one_stop_text_is_not_several() -> None:
    with pytest.raises(ValueError, match=r"stop = 'end' is a single text; expected several: \('end',\)"):
        Sampling(stop="end").check(40)


@pytest.mark.parametrize("stop", [("a" * 10_000,), ("b",) * 65])
def test_stop_texts_are_short_and_few(stop: tuple[str, ...]) -> None:
    """Each piece of an answer is compared with all of them."""
    with pytest.raises(
        ValueError, match=f"^stop = texts of .* characters, {len(stop)} in all, is not allowed; .* 1024"
    ):
        Sampling(stop=stop).check(40)
    Sampling(stop=("a" * 1024,) * 64).check(40)


def test_the_ends_of_all_ranges_are_allowed() -> None:
    Sampling().check(1)
    Sampling(1, 0, 1, 0, (0, 41), False, 0, 0, 1e-3, -2, -2, {0: -100, 39: 100}, (), 0, 0, 1).check(40)
    Sampling(10**9, 1e9, 1e-9, 2**63 - 1, (), True, 10**9, 1, 1e3, 2, 2, {}, ("a",), 20, 20, 128, True).check(40)


def test_every_field_has_a_range() -> None:
    """A field that somebody adds is checked too, or is a choice of two."""
    checked = {field for field, _, _ in REFUSED}
    constraints = {"json_schema", "regex", "choices"}  # tests/engine/test_grammar.py
    assert {field.name for field in fields(Sampling)} - checked == {"show_special", "echo"} | constraints


def test_resolved() -> None:
    sampling = Sampling(top_k=5, min_p=0.1, presence_penalty=1.0, logit_bias={3: 2.0}, stop=["x"])
    resolved = sampling.resolved(GenerationDefaults(temperature=0.6), SMALL)
    assert resolved.filters == (0.6, 1.0, 5, 0.1)
    assert resolved.adjustments == Adjustments(1.0, 1.0, 0.0, {3: 2.0})
    assert resolved.values() == {
        "temperature": 0.6, "top_p": 1.0, "seed": 0, "max_tokens": 256, "stop_ids": list(resolved.eos_ids),
        "stop": ["x"], "top_k": 5, "min_p": 0.1, "presence_penalty": 1.0, "logit_bias": {3: 2.0},
    }  # fmt: skip
    plain = Sampling().resolved(GenerationDefaults(), SMALL)
    assert set(plain.values()) == {"temperature", "top_p", "seed", "max_tokens", "stop_ids"}
    assert plain.adjustments.change_nothing
