"""Masks of structured output: how long a grammar takes to compile, and each token's mask, at a vocabulary.

    python bench/masks.py TOKENIZER_FOLDER [--texts 20] [--out FILE]

TOKENIZER_FOLDER holds a tokenizer.json, best of the official vocabulary. Values of each schema are walked by
token, and tool calls in V4's form, whose texts hold `<` and `</`. xgrammar is timed on the same texts where it is
installed. Prints a table, and appends a JSON line for each row of it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Tokenizer
from wavefold.chat.tool_calls import ToolCall, calls_text
from wavefold.engine.grammar import Constraint, Grammars
from wavefold.engine.tools import checked_calls

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "naïve",
    "Ωmega",
    "日本",
]

PERSON = {
    "type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.[a-z]{2,3}$"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
    }, "required": ["name", "age", "email", "tags"], "additionalProperties": False,
}  # fmt: skip
TREE = {
    "$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
        "text": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["text", "kids"], "additionalProperties": False}},
}  # fmt: skip
ANY = {"type": "object"}
CALL = {
    "anyOf": [
        {"type": "object", "properties": {"tool": {"const": name}, "path": {"type": "string"},
         "lines": {"type": "array", "items": {"type": "integer"}}},
         "required": ["tool", "path", "lines"], "additionalProperties": False}
        for name in ("read_file", "write_file", "list_folder", "search", "run")
    ]
}  # fmt: skip


def text(drawn: random.Random) -> str:
    return " ".join(drawn.choice(WORDS) for _ in range(drawn.randint(1, 12)))


def tree(drawn: random.Random, depth: int = 0) -> dict[str, Any]:
    kids = [tree(drawn, depth + 1) for _ in range(drawn.randint(0, 2))] if depth < 3 else []
    return {"text": text(drawn), "kids": kids}


def person(drawn: random.Random) -> dict[str, Any]:
    return {
        "name": text(drawn), "age": drawn.randint(0, 130), "email": "someone@place.org",
        "tags": [drawn.choice(WORDS) for _ in range(drawn.randint(0, 5))],
    }  # fmt: skip


def call(drawn: random.Random) -> dict[str, Any]:
    numbers = [drawn.randint(0, 9999) for _ in range(drawn.randint(0, 6))]
    return {"tool": drawn.choice(["read_file", "search", "run"]), "path": f"/{text(drawn)}.py", "lines": numbers}


def anything(drawn: random.Random) -> dict[str, Any]:
    return {drawn.choice(WORDS): person(drawn), "more": [tree(drawn), None, True, 1.5e-3]}


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {
        "path": {"type": "string"}, "mode": {"type": "string", "enum": ["read", "write"]}, "lines": {
        "type": "array", "items": {"type": "integer"}}, "more": ANY}, "required": ["path", "mode", "lines", "more"]}}}
    for name in ("read_file", "write_file", "list_folder", "search", "run")
]  # fmt: skip


def tool_call(drawn: random.Random) -> str:
    numbers = [drawn.randint(0, 9999) for _ in range(drawn.randint(0, 6))]
    page = f"<p>{text(drawn)}</p>\n<b>{text(drawn)}</b> if a < b"
    arguments = {"path": page, "mode": "write", "lines": numbers, "more": anything(drawn)}
    return calls_text([ToolCall(drawn.choice(["read_file", "search"]), arguments)])


CASES: dict[str, tuple[dict[str, Any] | None, Callable[[random.Random], Any]]] = {
    "record": (PERSON, person), "recursive": (TREE, tree), "any object": (ANY, anything),
    "union of calls": (CALL, call), "tool calls": (None, tool_call),
}  # fmt: skip


Walk = Callable[[list[int]], Iterator[float]]
"""Seconds of the mask before each of the tokens."""


def of_llguidance(tokenizer: Tokenizer, schema: dict[str, Any] | None) -> tuple[float, Walk]:
    """Returns the seconds that compiling takes, once the tokenizer is known, and what times masks. None: of `TOOLS`."""
    grammars = Grammars(tokenizer, tokenizer.vocab_size, [tokenizer.eos_id])
    constraint = Constraint.of(json_schema={"const": 1})
    assert constraint is not None
    grammars.compile(constraint)  # what the tokenizer costs once
    calls = checked_calls(TOOLS, "auto", True) if schema is None else None
    if calls is not None:  # what the markers cost once
        grammars.compile(Constraint.of(calls=checked_calls(TOOLS, "none", True)))  # type: ignore[arg-type]
    constraint = Constraint.of(json_schema=schema, calls=calls)
    assert constraint is not None
    began = time.perf_counter()
    grammar = grammars.compile(constraint)
    compile_s = time.perf_counter() - began

    def walk(ids: list[int]) -> Iterator[float]:
        state = grammar.start()
        for token in ids:
            began = time.perf_counter()
            mask = state.mask
            yield time.perf_counter() - began
            assert int(mask[token // 32]) >> (token % 32) & 1, "a token of a valid value is forbidden"
            state.advance(token)

    return compile_s, walk


def of_xgrammar(tokenizer: Tokenizer, schema: dict[str, Any] | None) -> tuple[float, Walk]:
    """The same of xgrammar."""
    import xgrammar

    words = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    info = xgrammar.TokenizerInfo(words, xgrammar.VocabType.RAW, stop_token_ids=[tokenizer.eos_id])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    began = time.perf_counter()
    if schema is None:
        tag = xgrammar.get_model_structural_tag("deepseek_v4", tools=TOOLS, reasoning="disabled")
        grammar = compiler.compile_structural_tag(tag)
    else:
        grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
    compile_s = time.perf_counter() - began

    def walk(ids: list[int]) -> Iterator[float]:
        matcher = xgrammar.GrammarMatcher(grammar)
        mask = xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)
        for token in ids:
            began = time.perf_counter()
            matcher.fill_next_token_bitmask(mask)
            yield time.perf_counter() - began
            assert matcher.accept_token(token), "a token of a valid value is forbidden"

    return compile_s, walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=20, help="values of each schema (20)")
    parser.add_argument("--out", type=Path, help="file to append JSON lines to")
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.folder)
    table = Table("library", "schema", "compile, ms", "masks", "median, us", "99 %", "longest")
    table.title = f"vocabulary of {tokenizer.vocab_size:,}"
    lines = []
    for library, made in (("llguidance", of_llguidance), ("xgrammar", of_xgrammar)):
        for name, (schema, value) in CASES.items():
            try:
                compile_s, walk = made(tokenizer, schema)
            except ImportError:
                print(f"{library} is not installed")
                break
            drawn = random.Random(0)
            values = [value(drawn) for _ in range(args.texts)]
            texts = values if schema is None else [json.dumps(one, ensure_ascii=False) for one in values]
            ids = [tokenizer.encode(one, allow_special=schema is None) for one in texts]
            seconds = sorted(second for one in ids for second in walk(one))
            line = {
                "bench": "masks", "library": library, "schema": name, "compile_s": compile_s, "masks": len(seconds),
                "median_s": statistics.median(seconds), "p99_s": seconds[int(0.99 * len(seconds))],
                "longest_s": seconds[-1],
            }  # fmt: skip
            lines.append(circumstances(1) | line | {"vocab": tokenizer.vocab_size})
            table.add_row(library, name, f"{1e3 * compile_s:.1f}", f"{len(seconds):,}",
                          *(f"{1e6 * line[key]:.0f}" for key in ("median_s", "p99_s", "longest_s")))  # type: ignore[operator]  # fmt: skip
    Console().print(table)
    if args.out:
        append(args.out, lines)


if __name__ == "__main__":
    main()
