"""`Sampling`: every field of another type or range is named with its value and what is allowed, when it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from tests.small import SMALL
from wavefold.engine.adjust import Adjustments
from wavefold.engine.arguments import shown
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.sampling import RULES, Sampling

NAN, INF = float("nan"), float("inf")
NO_NUMBERS: list[Any] = ["0", True, b"1", [1], {}, 1j, np.array([1, 2]), torch.tensor(True), np.bool_(True)]
NO_WHOLE: list[Any] = [*NO_NUMBERS, 1.5, 1.0, NAN, INF, np.float32(1), 2**63, 10**5000]
NO_FLAGS: list[Any] = [0, 1, "yes", np.bool_(True), None]
REFUSED: list[tuple[str, list[Any], str]] = [
    ("max_tokens", [0, -5, *NO_WHOLE], r"a whole number from 1 to 2\^63 - 1, or None"),
    ("temperature", [-0.1, NAN, INF, 10**400, *NO_NUMBERS], r"a number from 0 \(the most likely token\) on, or None"),
    ("top_p", [0, -1, 1.01, NAN, *NO_NUMBERS], "a number above 0, at most 1, or None"),
    ("seed", [-1, None, *NO_WHOLE], r"a whole number from 0 to 2\^63 - 1"),
    ("stop_ids", [(3, -1), 3, "ab", b"ab", {3: 1}, iter([3]), [1.5], [True], [2**63], np.array(3), np.array([[3]])],
     r"a list of token ids, whole numbers from 0 to 2\^63 - 1, or None"),
    ("top_k", [-1, *NO_WHOLE], r"a whole number from 0 \(all tokens\) to 2\^63 - 1, or None"),
    ("min_p", [-0.1, 1.1, NAN, *NO_NUMBERS], "a number from 0 to 1, or None"),
    ("repetition_penalty", [0, -1, 5e-324, 1e-4, 1e4, NAN, INF, *NO_NUMBERS],
     r"a number from 0.001 to 1000 \(1: no penalty\), or None"),
    ("presence_penalty", [-2.1, 2.1, NAN, *NO_NUMBERS], r"a number from -2 to 2 \(0: none\), or None"),
    ("frequency_penalty", [-2.1, 2.1, NAN, *NO_NUMBERS], r"a number from -2 to 2 \(0: none\), or None"),
    ("logit_bias", [[1], 3, "a", {-1: 1}, {5.0: 1}, {"5": 1}, {True: 1}, {0: 101}, {0: -101}, {0: NAN}, {0: "1"},
                    {0: None}], r"a mapping of token ids .* to biases from -100 to 100, or None"),
    ("stop", [("a", ""), [1], [b"a"], [None], 3, b"ab", {"a": 1}, iter(["a"]), ("a" * 1025,), ("b",) * 65],
     "a list of at most 64 texts of 1 to 1,024 characters, or None"),
    ("logprobs", [-1, 21, *NO_WHOLE], "a whole number from 0 to 20, or None"),
    ("prompt_logprobs", [-1, 21, *NO_WHOLE], "a whole number from 0 to 20, or None"),
    ("n", [0, 129, None, *NO_WHOLE], "a whole number from 1 to 128"),
    ("echo", NO_FLAGS, "True or False"),
    ("show_special", NO_FLAGS, "True or False"),
    ("json_schema", [3, [1], b"{}"], "a schema: a mapping, or its text in JSON, or None"),
    ("regex", [3, b"a", ["a"], re.compile(b"a"), re.compile("a", re.IGNORECASE), re.compile("(?s)a")],
     "a regular expression: a text, or a compiled one of text without flags, or None"),
    ("choices", [[], (), ("a", ""), [1], 3, {"a": 1}, iter(["a"])],
     "texts of one character or more in a list, at least one, or None"),
    ("tools", [3, [1], {"a": 1}, iter([{}]), ["f"]], r"a list of tools, each {.*}, or None"),
    ("tool_choice", [3, ["f"], True], '"auto", "required", "none", or a tool: .*, or None'),
    ("parallel_tool_calls", ["yes", 1, 0.0], "True or False, or None"),
    ("thinking", ["yes", 1, 0.0], "True or False, or None"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "expected"), [(field, value, text) for field, values, text in REFUSED for value in values],
    ids=lambda value: re.sub(" at 0x.*", "", shown(value)),
)  # fmt: skip
def test_refused(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} = .* is not allowed; expected {expected}$") as error:
        Sampling(**{field: value})
    assert shown(value) in str(error.value)


def test_every_field_has_a_rule_that_is_tested() -> None:
    names = {field.name for field in fields(Sampling)}
    assert set(RULES) == {field for field, _, _ in REFUSED} == names


def test_a_value_in_an_error_is_one_short_line() -> None:
    for value in ("x" * 10_000, np.zeros((3, 3)), 10**5000):
        assert len(shown(value)) < 210 and "\n" not in shown(value)


@pytest.mark.parametrize("field", ["stop", "choices"])
def test_one_text_is_not_several(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} = 'end' is a single text; expected several: \('end',\)"):
        Sampling(**{field: "end"})  # type: ignore[arg-type]


def test_none_is_off() -> None:
    """Of all but the fields that have no such state."""
    names = {field.name for field in fields(Sampling)} - {"seed", "n", "echo", "show_special"}
    assert Sampling(**dict.fromkeys(names)) == Sampling()  # type: ignore[arg-type]


def test_values_are_plain() -> None:
    """Those of numpy, sets and compiled expressions; what a caller changes afterwards changes nothing."""
    bias, stops = {np.int64(3): np.float32(0.5)}, ["a", "b"]
    sampling = Sampling(
        max_tokens=np.int64(4), temperature=np.float32(0.5), stop_ids=np.array([3, 4]), logit_bias=bias, stop=stops,
        top_k=np.int8(3), regex=re.compile("a+"),
    )  # type: ignore[arg-type]  # fmt: skip
    bias[np.int64(4)], stops[0] = np.float32(1), "c"
    assert sampling == Sampling(4, 0.5, None, 0, (3, 4), False, 3, logit_bias={3: 0.5}, stop=("a", "b"), regex="a+")
    assert [type(value) for value in (sampling.max_tokens, sampling.temperature, sampling.top_k)] == [int, float, int]
    assert Sampling(stop_ids={9, 8, 7}).stop_ids == (7, 8, 9)  # type: ignore[arg-type]
    assert isinstance(Sampling(logit_bias=MappingProxyType({1: 2})).logit_bias, Mapping)
    hash(sampling)


def test_the_ends_of_all_ranges_are_allowed() -> None:
    Sampling().check(1)
    Sampling(1, 0, 1, 0, (0, 41), False, 0, 0, 1e-3, -2, -2, {0: -100, 39: 100}, (), 0, 0, 1).check(40)
    Sampling(10**9, 1e9, 1e-9, 2**63 - 1, (), True, 10**9, 1, 1e3, 2, 2, {}, ("a",), 20, 20, 128, True).check(40)
    Sampling(stop=("a" * 1024,) * 64).check(40)


def test_a_bias_beyond_the_vocabulary_is_refused_by_the_model() -> None:
    sampling = Sampling(logit_bias={40: 1})
    sampling.check(41)
    with pytest.raises(ValueError, match=r"^logit_bias = {40: 1\.0} is not allowed; expected token ids from 0 to 39$"):
        sampling.check(40)


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


def test_help_says_default_and_range_of_every_field() -> None:
    """By itself, and the defaults are those of the fields."""
    table = dict(re.findall(r"^    (\w+) +(\S+)   ", Sampling.__doc__ or "", re.MULTILINE))
    table.pop("field")
    defaults = {name: getattr(Sampling(), name) for name in table}
    assert set(table) == {field.name for field in fields(Sampling)}
    assert {name: eval(text) for name, text in table.items()} == defaults
    assert "before temperature, filters, penalties, bias and the mask" in (Sampling.__doc__ or "")
