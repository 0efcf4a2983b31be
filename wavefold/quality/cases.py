"""What a card asks for: values of schemas, calls of tools, and chats with their right answers. All written for it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from wavefold.chat.tool_calls import ToolCall, calls_text

Schema = dict[str, Any]


class FormCase(NamedTuple):
    """`answer`: the right value for `text`; `example` is shown with its text before it."""

    name: str
    schema: Schema
    example_text: str
    example: Any
    text: str
    answer: Any


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False
    }  # fmt: skip


_WORD = {"type": "string", "maxLength": 24}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 100000}

FORM_CASES = (
    FormCase(
        "city", _object(city=_WORD, people=_COUNT), "Lund has 94000 people.", {"city": "Lund", "people": 94000},
        "In Delft live 105 people who bake.", {"city": "Delft", "people": 105},
    ),
    FormCase(
        "order", _object(item=_WORD, amount=_COUNT, paid={"type": "boolean"}), "Nine pears, not yet paid.",
        {"item": "pears", "amount": 9, "paid": False}, "Four lamps, paid on Monday.",
        {"item": "lamps", "amount": 4, "paid": True},
    ),
    FormCase(
        "colours", {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "A green frog on a red roof.", ["green", "red"], "The blue boat has a red sail.", ["blue", "red"],
    ),
    FormCase(
        "range", _object(low={"type": "number", "minimum": 0, "maximum": 100},
                         high={"type": "number", "minimum": 0, "maximum": 100}),
        "Between 3 and 7.5 metres.", {"low": 3, "high": 7.5}, "From 12 up to 18 metres.", {"low": 12, "high": 18},
    ),
    FormCase(
        "date", _object(year={"type": "integer", "minimum": 1900, "maximum": 2100},
                        month={"type": "integer", "minimum": 1, "maximum": 12}),
        "It opened in May 1968.", {"year": 1968, "month": 5}, "It closed in March 2004.", {"year": 2004, "month": 3},
    ),
    FormCase(
        "person", _object(name=_object(first=_WORD, last=_WORD), age={"type": ["integer", "null"], "maximum": 150}),
        "Ida Holm does not tell her age.", {"name": {"first": "Ida", "last": "Holm"}, "age": None},
        "Paul Brand turned 41.", {"name": {"first": "Paul", "last": "Brand"}, "age": 41},
    ),
    FormCase(
        "level", {"enum": ["low", "medium", "high"]}, "There is hardly any water left.", "low",
        "The river has risen over its banks.", "high",
    ),
    FormCase(
        "steps", {"type": "array", "items": _object(do={"enum": ["wait", "turn", "stop"]}, seconds=_COUNT),
                  "minItems": 1, "maxItems": 3},
        "Wait 5 seconds, then stop at once.", [{"do": "wait", "seconds": 5}, {"do": "stop", "seconds": 0}],
        "Turn for 8 seconds, then wait 2.", [{"do": "turn", "seconds": 8}, {"do": "wait", "seconds": 2}],
    ),
)  # fmt: skip


def _tool(name: str, description: str, **properties: Schema) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": _object(**properties)},
    }


TOOLS = [
    _tool("weather", "The weather of a place on a day.", place=_WORD, day={"enum": ["today", "tomorrow"]}),
    _tool("convert", "Converts an amount of money.", amount=_COUNT, to={"enum": ["EUR", "USD", "JPY"]}),
    _tool("remind", "Reminds of something in some minutes.", of=_WORD, minutes=_COUNT),
    _tool("translate", "Translates a short text.", text=_WORD, to={"enum": ["German", "French", "Spanish"]}),
]
TOOLS_TEXT = (
    "You may call these tools:\n"
    + "\n".join(json.dumps(tool["function"]) for tool in TOOLS)
    + "\nA call is written so:"
    + calls_text([ToolCall("weather", {"place": "Oslo", "day": "today"})])
)


class ToolCase(NamedTuple):
    """`tool`: the name of the right one for `request`."""

    name: str
    request: str
    tool: str


TOOL_CASES = (
    ToolCase("rain", "Will it rain in Bergen tomorrow?", "weather"),
    ToolCase("sun", "Is the sun out in Rome today?", "weather"),
    ToolCase("yen", "How many yen are 250 euros?", "convert"),
    ToolCase("dollars", "I have 40 euros; what is that in dollars?", "convert"),
    ToolCase("oven", "Tell me in 20 minutes to look into the oven.", "remind"),
    ToolCase("call", "Remind me to call my sister in half an hour.", "remind"),
    ToolCase("german", "What is 'good morning' in German?", "translate"),
    ToolCase("french", "Put 'thank you' into French.", "translate"),
)


def _chat(*turns: str, system: str = "") -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return ({"role": "system", "content": system}, *messages) if system else tuple(messages)


CHATS = (
    _chat("What is two and two?", "Four."),
    _chat("Name a colour.", "Blue.", "Another one.", "Green."),
    _chat("Write a function that adds two numbers.", "def add(a, b):\n    return a + b"),
    _chat("Is water wet?", "Yes.", "Is sand wet?", "Not by itself.", "And ice?", "Where it melts.",
          system="Answer in a few words."),
    _chat("Which day comes after Monday?", "Tuesday.", "And before it?", "Sunday."),
    _chat("Give me a list of three fruits.", "1. Apple\n2. Pear\n3. Plum", system="You are a helpful assistant."),
    _chat("How do I open a file in Python?", "with open(name) as file:\n    text = file.read()"),
    _chat("Say hello.", "Hello.", "Say it in French.", "Bonjour.", "Thank you.", "You are welcome."),
)  # fmt: skip
"""Chats that end with an answer."""
