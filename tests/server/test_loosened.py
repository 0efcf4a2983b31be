"""Which parameters of a tool are held: by few compilations, and what is remembered has a bound."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from wavefold.server.protocol import loosened
from wavefold.server.protocol.loosened import TEST_CHARACTERS, Function, Loosened
from wavefold.server.recipe import Tool

HARD, EASY = {"uniqueItems": True}, {"type": "integer"}


class Engine:
    """Holds all but `HARD`, and counts."""

    def __init__(self) -> None:
        self.num_calls = self.num_characters = 0

    def holds(self, function: Function) -> bool:
        parameters = function["function"]["parameters"]
        self.num_calls += 1
        self.num_characters += TEST_CHARACTERS + len(json.dumps(parameters))
        return HARD not in parameters["properties"].values()


def tool(properties: dict[str, Any], **more: Any) -> Tool:
    return Tool("f", "", {"type": "object", "properties": properties, **more})


def parameters_of(function: Function) -> Any:
    return function["function"]["parameters"]


def test_each_parameter_that_can_be_held_is_and_few_compilations_find_them() -> None:
    drawn = random.Random(0)
    for num_hard in (1, 2, 5):
        names = [f"p{number}" for number in range(64)]
        hard = set(drawn.sample(names, num_hard))
        engine = Engine()
        properties = {name: HARD if name in hard else EASY for name in names}
        loose = parameters_of(Loosened().of(tool(properties, required=["p1", "p2"]), engine.holds))
        assert loose["properties"] == {name: {} if name in hard else EASY for name in names}
        assert list(loose["properties"]) == names and loose["required"] == ["p1", "p2"]
        assert engine.num_calls <= 2 + 2 * num_hard * 6


def test_the_work_for_one_tool_has_a_bound() -> None:
    """However many of its parameters cannot be held, and whatever stands beside each of them."""
    engine = Engine()
    properties = {f"p{number}": HARD if number % 2 else EASY for number in range(2000)}
    defs = {f"d{number}": {"type": "string", "description": "x" * 50} for number in range(100)}
    loose = parameters_of(Loosened().of(tool(properties, **{"$defs": defs}), engine.holds))
    whole = TEST_CHARACTERS + len(json.dumps({"$defs": defs, "properties": properties}))
    assert engine.num_characters <= loosened.MOST_TESTED + 2 * whole
    assert len(loose["properties"]) == 2000 and HARD not in loose["properties"].values()


def test_a_tool_is_compiled_once() -> None:
    engine, known = Engine(), Loosened()
    first = known.of(tool({"a": HARD, "b": EASY}), engine.holds)
    num_calls = engine.num_calls
    assert known.of(tool({"a": HARD, "b": EASY}), engine.holds) == first and engine.num_calls == num_calls
    known.of(tool({"a": HARD, "b": {}}), engine.holds)
    assert engine.num_calls > num_calls


def test_remembered_tools_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loosened, "MOST_BYTES", 1000)
    engine, known = Engine(), Loosened()
    for number in range(100):
        known.of(tool({"a": {"description": f"{number}" + "x" * 300}}), engine.holds)
        assert known.num_bytes <= 1000
    known.of(tool({"a": {"description": "x" * 3000}}), engine.holds)
    assert known.num_bytes <= 1000
