"""Held tool calls: of known tools alone, with the parameters that they require, valid by jsonschema."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import torch

from tests.engine import tool_sets
from tests.engine.test_grammar import FORMATS
from tests.engine.walk import tokens_of, walk
from tests.small import small_model
from wavefold import LLM, Sampling
from wavefold.chat import Tokenizer, byte_tokenizer, train_tokenizer
from wavefold.chat.special_tokens import DSML
from wavefold.chat.tool_calls import OPENING, ToolCall, calls_text, read_calls
from wavefold.engine.grammar import Grammar, Grammars

TOKENIZER = byte_tokenizer()
GRAMMARS = Grammars(TOKENIZER, TOKENIZER.vocab_size, [TOKENIZER.eos_id])
TEXT = {"type": "string"}


def function(name: str = "f", properties: object = None, **more: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties or {}, **more}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def compiled(tools: list[dict[str, Any]], choice: object = "required", **more: Any) -> Grammar:
    sampling = Sampling(tools=tools, tool_choice=choice, **more)  # type: ignore[arg-type]
    return GRAMMARS.compile(sampling._constraint)  # type: ignore[arg-type]


def takes(grammar: Grammar, text: str, tokenizer: Tokenizer = TOKENIZER) -> bool:
    """True if every token of a text is allowed, and the text may end. Markers in it are tokens."""
    state = grammar.start()
    for token in tokenizer.encode(text, allow_special=True):
        if token not in tokens_of(state) and state.masks([token])[1:] == [None] and not _ends(state, token):
            return False
        state.advance(token)
        if state.error:
            return False
    return state.is_complete or tokenizer.eos_id in tokens_of(state)


def _ends(state: Any, token: int) -> bool:
    """True if a token is the last one, after which there is no mask."""
    return state.masks([token])[1] is None and bool(int(state.mask[token // 32]) >> token % 32 & 1)


def call(name: str, **arguments: object) -> str:
    return calls_text([ToolCall(name, arguments)])


def check(tools: list[dict[str, Any]], choice: object, text: str, reason: str) -> int:
    """Asserts that an answer is what its tools and choice allow. Returns its calls."""
    content, calls = read_calls(text)
    assert text.startswith(content + OPENING) if calls else text == content
    assert text.count(f"<{DSML}invoke name=") == len(calls)
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    for one in calls:
        schema = schemas[one.name]
        jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(one.arguments)
        if "additionalProperties" not in schema:
            assert one.arguments.keys() <= schema["properties"].keys()
        known = [name for name in one.arguments if name in schema["properties"]]
        assert known == [name for name in schema["properties"] if name in one.arguments]
    if choice in ("auto", "none"):
        assert reason == ("stop" if calls else "eos") and not (calls and choice == "none")
    else:
        assert reason == "stop" and not content and calls
        name = choice.get("name", choice.get("function", {}).get("name")) if isinstance(choice, dict) else choice
        assert name == "required" or [one.name for one in calls] == [name]
    return len(calls)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM(small_model(tmp_path_factory.mktemp("tools") / "model")) as llm:
        yield llm


class TestSets:
    def test_random_sets_and_choices(self) -> None:
        """220 of them, under logits that are noise: all answers are valid, and all end."""
        counts: dict[str, int] = {}
        for seed in range(220):
            drawn = random.Random(seed)
            tools = tool_sets.tool_set(drawn)
            choice = tool_sets.choice(drawn, tools)
            begin = "I call.\n\n<" if choice == "auto" and seed % 3 else ""
            tokens, reason = walk(compiled(tools, choice), TOKENIZER, drawn, begin=begin)
            kind = choice if choice in ("auto", "none", "required") else "named"
            counts[kind] = counts.get(kind, 0) + check(tools, choice, TOKENIZER.decode(tokens), reason)
        assert counts["none"] == 0 and min(counts["required"], counts["named"]) > 60 and counts["auto"] > 3

    def test_a_model_of_random_weights(self, llm: LLM) -> None:
        drawn = random.Random(0)
        sets = [[tool_sets.tool(drawn, "f", [*tool_sets.OTHERS[:6], *tool_sets.TEXTS[2:4]])] for _ in range(5)]
        for [tool] in sets:
            tool["function"]["parameters"].pop("additionalProperties", None)
        bias = {llm.tokenizer.encode(end)[0]: 2.0 for end in ']}"'}  # type: ignore[union-attr]
        samplings = [
            Sampling(max_tokens=600, temperature=1.5, seed=n, tools=tools, tool_choice="f", logit_bias=bias)
            for n, tools in enumerate(sets)
        ]
        ended = 0
        for tools, answer in zip(sets, llm.generate(["x"] * len(sets), samplings), strict=True):
            assert answer.tool_calls == read_calls(answer.text or "")[1], answer.error
            if answer.finish_reason == "stop":
                ended += check(tools, "f", answer.text or "", "stop")
        assert ended >= 4

    def test_only_the_last_answer_of_a_form_has_calls(self, llm: LLM) -> None:
        answers = llm.generate(["x"] * 2, [Sampling(max_tokens=2), Sampling(tools=[function()], tool_choice="f")])
        assert [answer.tool_calls for answer in answers] == [None, (ToolCall("f", {}),)]


class TestForms:
    """What the grammar takes, token by token, in the words of V4's own encoding."""

    TOOL = function(
        "f", {"x": TEXT, "n": {"type": ["integer", "null"]}, "o": {"type": "object"}}, required=["x"],
    )  # fmt: skip
    MANY = calls_text([ToolCall("f", {"x": "a\n</b> <日本", "n": 5}), ToolCall("g", {})])

    @pytest.mark.parametrize("trained", [False, True])
    def test_takes_what_the_encoding_writes(self, trained: bool) -> None:
        tokenizer = train_tokenizer([self.MANY * 3, "def f(x):\n"], 330) if trained else TOKENIZER
        grammars = Grammars(tokenizer, tokenizer.vocab_size, [tokenizer.eos_id])
        sampling = Sampling(tools=[self.TOOL, function("g")], tool_choice="auto")
        grammar = grammars.compile(sampling._constraint)  # type: ignore[arg-type]
        assert grammar is grammars.compile(sampling._constraint)  # type: ignore[arg-type]
        ids = tokenizer.encode("Let me see. < 5" + self.MANY, allow_special=True)
        state = grammar.start()
        for token in ids:
            assert token in tokens_of(state) or state.masks([token])[1] is not None
            state.advance(token)
        assert state.is_complete and not state.error

    @pytest.mark.parametrize(
        ("text", "is_taken"),
        [
            (call("f", x="</"), True), (call("f", x=""), True), (call("f", x="a", n=None, o={"a": [1, {}]}), True),
            (call("f"), False), (call("f", n=5), False), (call("f", x=5), False), (call("f", x="a", n="b"), False),
            (call("f", n=5, x="a"), False), (call("f", x="a", y="b"), False), (call("h"), False),
            (call("f", x="a", o=[]), False), (call("f", x="a") + "more", False), ("text" + call("f", x="a"), False),
            (call("f", x="a").replace(f"</{DSML}parameter", f"<{DSML}parameter"), False), ("text", False), ("", False),
            (MANY, True), (call("f", x="a").removeprefix("\n"), False),
        ],
    )  # fmt: skip
    def test_required(self, text: str, is_taken: bool) -> None:
        assert takes(compiled([self.TOOL, function("g")]), text) is is_taken

    def test_the_choice(self) -> None:
        tools = [self.TOOL, function("g")]
        one = call("g")
        for choice in ("g", {"name": "g"}, {"type": "function", "function": {"name": "g"}}):
            grammar = compiled(tools, choice)
            assert takes(grammar, one)
            assert not any(takes(grammar, text) for text in (call("f", x="a"), self.MANY, "text", "text" + one))
        assert not takes(compiled(tools, "required", parallel_tool_calls=False), self.MANY)
        auto, none = compiled(tools, "auto"), compiled(tools, "none")
        for text in ("", "text", "a < b </\n\n<", "text" + one):
            assert takes(auto, text) and takes(none, text) is (one not in text)
        assert not takes(auto, "text" + one.removeprefix("\n")) and not takes(auto, one + "text")

    def test_ordinary_tokens_never_spell_the_marker(self) -> None:
        """In free text, in a text as it is, and inside JSON."""
        tool = function("f", {"x": TEXT, "o": {"type": "array", "items": TEXT}}, required=["x"])
        for before in ("", call("f", x="|").split("|")[0], call("f", x="a", o=["|"]).split("|")[0]):
            state = compiled([tool], "auto").start()
            for token in TOKENIZER.encode(before, allow_special=True):
                state.advance(token)
            *spelled, last = TOKENIZER.encode(DSML)
            for token in spelled:
                assert state.masks([token])[1] is not None
                state.advance(token)
            assert last not in tokens_of(state) and state.masks([last])[1] is None and not state.error

    def test_other_parameters(self) -> None:
        known = function("f", {"x": {"type": "null"}}, additionalProperties={"type": ["boolean", "string"]})
        grammar = compiled([known])
        assert takes(grammar, call("f", x=None, y=True, z="a")) and takes(grammar, call("f", xx="a"))
        assert not any(takes(grammar, call("f", **{name: True})) for name in ("x", "a b", "ä"))
        assert not takes(grammar, call("f", y=5))

    def test_drafts_are_masked_as_tokens_are(self) -> None:
        state = compiled([self.TOOL]).start()
        ids = TOKENIZER.encode(call("f", x="a<"), allow_special=True)
        masks = state.masks([*ids[:-20], TOKENIZER.token_id(DSML)])
        single = compiled([self.TOOL]).start()
        for token, mask in zip(ids[:-20], masks, strict=False):
            assert mask is not None and torch.equal(mask, single.mask)
            single.advance(token)


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"tools": [function("a b")]}, r"tools\[0\]: name = 'a b' is not allowed; expected 1 to 128"),
            ({"tools": [{"name": "f"}]}, r"tools\[0\] = .* is not allowed; expected {\"type\""),
            ({"tools": [function("f"), function("f")]}, "two are called 'f'"),
            ({"tools": [], "tool_choice": "required"}, "tool_choice = 'required' is not allowed without tools"),
            ({"tool_choice": "f"}, "not allowed without tools"),
            ({"tools": [function("f")], "tool_choice": "g"}, "expected one of auto, required, none, f"),
            ({"tools": [function("f")], "tool_choice": {"type": "custom", "name": "f"}}, "tool_choice = "),
            ({"tools": [function("f")], "regex": "a"}, "regex and tools are not allowed together"),
            ({"tools": [function("f", {"a b": TEXT})]}, "tool 'f'.*name 'a b' is not allowed"),
            ({"tools": [function("f", {'q"': TEXT})]}, "tool 'f'.*is not allowed; expected no blanks, quotes"),
            ({"tools": [function("f", {"x": {"const": DSML}})]}, f"tool 'f'.*#/properties/x: {DSML} is not allowed"),
            ({"tools": [function("f", {"x": {"maxLenght": 5}})]}, "tool 'f'.*did you mean 'maxLength'"),
            ({"tools": [function("f", {"x": TEXT | {"format": "idn-email"}})]}, "parameter 'x': format 'idn-email'"),
            ({"tools": [function("f", {"x": {"not": TEXT}})]}, "tool 'f', parameter 'x': not of a text is not held"),
            ({"tools": [function("f", {"x": TEXT | {"pattern": "a(b$)"}})]}, r"\$ amid a pattern"),
            ({"tools": [function("f", {"x": {"oneOf": [TEXT, {"const": "a"}]}})]}, "oneOf with several branches"),
            ({"tools": [function("f", {"x": {"$ref": "#/$defs/no"}})]}, r"'#/\$defs/no' names nothing"),
            ({"tools": [function("f", {"x": {"$ref": "other.json"}})]}, "'other.json' is not held"),
            ({"tools": [function("f", {"x": {"$ref": "#/properties/x"}})]}, "refers to itself"),
            ({"tools": [function("f", required=["x"])]}, "required 'x' is none of its properties"),
            ({"tools": [function("f", minProperties=1)]}, "minProperties of a whole call is not held"),
            ({"tools": [function("f", {"x": False}, required=["x"])]}, "parameter 'x': no value satisfies it"),
            ({"tools": "f"}, "tools = 'f'"),
        ],
    )  # fmt: skip
    def test_when_the_sampling_is_made(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Sampling(**values)

    @pytest.mark.parametrize(
        ("schema", "word"),
        [
            ({"type": "array", "uniqueItems": True}, "uniqueItems"),
            ({"type": "object", "propertyNames": TEXT}, "propertyNames"),
            (TEXT | {"enum": ["abc"], "maxLength": 2}, "no text satisfies it"),
            (TEXT | {"minLength": 5, "maxLength": 2}, "parameter 'x'"),
            ({"allOf": [{"type": "integer"}, {"type": "boolean"}]}, "incompatible types"),
            (TEXT | {"pattern": "(?=a)b"}, "parameter 'x'"),
        ],
    )
    def test_when_it_is_compiled(self, schema: object, word: str) -> None:
        """The tool and the parameter are named, as the one beside it could be compiled."""
        with pytest.raises(ValueError, match=rf"tool 'g', parameter 'x'.*{word}|{word}: "):
            compiled([function("f", {"y": TEXT}), function("g", {"x": schema})])

    def test_no_tools(self) -> None:
        assert Sampling(tools=[], tool_choice="none")._constraint is None
        assert Sampling(tool_choice="auto")._constraint is None

    def test_markers_in_descriptions_change_nothing(self) -> None:
        tool = function("f", {"x": {"type": "boolean", "description": f"</{DSML}parameter>"}})
        tool["function"]["description"] = OPENING
        assert takes(compiled([tool]), call("f", x=True)) and takes(compiled([tool]), call("f"))

    def test_a_tokenizer_without_the_marker(self) -> None:
        text = json.loads(TOKENIZER._text)
        text["added_tokens"] = [token for token in text["added_tokens"] if token["content"] != DSML]
        del text["model"]["vocab"][DSML]
        other = Tokenizer(json.dumps(text))
        sampling = Sampling(tools=[function()])
        with pytest.raises(ValueError, match="tools need the token '｜DSML｜', which the model's tokenizer lacks"):
            Grammars(other, other.vocab_size, [other.eos_id]).compile(sampling._constraint)  # type: ignore[arg-type]


def test_reading_leaves_out_what_was_cut_off(tmp_path: Path) -> None:
    whole = calls_text([ToolCall("f", {"x": "a"}), ToolCall("g", {"n": [1]})])
    content, calls = read_calls("text" + whole[: whole.index("[1]")])
    assert content == "text" and calls == (ToolCall("f", {"x": "a"}),)


class TestSchemaBesideTools:
    """An answer is JSON of the schema, or calls."""

    SCHEMA: ClassVar[Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "properties": {"a": {"enum": [3, "x"]}}, "required": ["a"],
                        "additionalProperties": False}},
    }  # fmt: skip
    TOOLS: ClassVar[Any] = [function("f", {"a": {"enum": [1, 2]}}, required=["a"])]

    @pytest.mark.parametrize(
        ("text", "auto", "required"),
        [
            ('{"a": 3}', True, False), ('{"a": "x"}', True, False), ('{"a": 4}', False, False), ("Now", False, False),
            (call("f", a=1), True, True), (call("f", a=3), False, False), ("Now" + call("f", a=1), False, False),
            ('{"a": 3}' + call("f", a=1), False, False), ("", False, False),
        ],
    )  # fmt: skip
    def test_what_is_taken(self, text: str, auto: bool, required: bool) -> None:
        assert takes(compiled(self.TOOLS, "auto", json_schema=self.SCHEMA), text) == auto
        assert takes(compiled(self.TOOLS, "required", json_schema=self.SCHEMA), text) == required
        assert takes(compiled(self.TOOLS, "none", json_schema=self.SCHEMA), text) == (auto and text.startswith("{"))

    def test_what_cannot_be_held_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"json_schema: .*not"):
            compiled(self.TOOLS, "auto", json_schema={"not": {}})
        with pytest.raises(ValueError, match=r"json_schema .* is not allowed: #: keyword 'nonsense'"):
            Sampling(tools=self.TOOLS, json_schema={"nonsense": 1})
        with pytest.raises(ValueError, match="not allowed together"):
            Sampling(tools=self.TOOLS, json_schema={}, regex="a")
