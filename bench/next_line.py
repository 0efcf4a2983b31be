"""Is a model's next line of a held-out function the line that is there?

    python bench/next_line.py MODEL [MODEL ...] [--data stdlib] [--num 500] [--seed 0] [--out lines.jsonl]

Takes `num` lines out of the functions of the corpus's held-out files (seeded, each line at most once: not the first of
a function, and not empty), gives the model up to 512 tokens before it, and lets it go on greedily. The
case is won when the first line that is not blank is that line, to the character, indentation included. The prompt
ends with the last line before it that is not empty, without its line break, and the first token is one with a line
break: the tokenizer joins that with the signs before it and the indentation after it (`wavefold/chat/healing.py`). All
models get the same cases. Prints a table, and a JSON line for each model, which it appends to the file `--out`.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold import Transformer
from wavefold.bench.circumstances import append, circumstances
from wavefold.chat import Prompt, StreamDecoder, Tokenizer
from wavefold.checkpoint import load
from wavefold.data.corpus import Document, load_corpus
from wavefold.engine import generate

CONTEXT_TOKENS = 512
SPARE_TOKENS = 32
"""Tokens that an answer may have beside those of the line: empty lines, another way to cut it."""


def cases(document: Document) -> list[tuple[str, str]]:
    """(the file before a line, the line) for each line of functions that is not empty, their first ones left out."""
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old files
        tree = ast.parse(text)
    lines = text.split("\n")
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside |= set(range(node.lineno, node.end_lineno or node.lineno))
    return [("\n".join(lines[:number]).rstrip(), lines[number]) for number in sorted(inside) if lines[number].strip()]


def verdict(answer: str, line: str) -> bool | None:
    """True if the first line of `answer` that is not blank is `line`; None while it may still become it.

    Text before the first line break would belong to the line before.
    """
    rest, *lines = answer.split("\n")
    if rest.strip():
        return False
    for number, found in enumerate(lines):
        if number < len(lines) - 1 and found.strip():
            return found == line
    last = lines[-1] if lines else ""
    return None if not last.strip() or line.startswith(last) else False


def line_break(tokenizer: Tokenizer, ids: list[int]) -> Prompt:
    """The prompt `ids`, to be gone on with by a line break: in one token with its last one where there is such."""
    taken = tokenizer.token_bytes(ids[-1])
    joined = tokenizer.beginning_with(taken + b"\n")
    return Prompt(ids[:-1], taken, joined) if joined else Prompt(ids, b"", tokenizer.beginning_with(b"\n"))


def is_next(model: Transformer, tokenizer: Tokenizer, before: str, line: str) -> bool:
    """True if the model, decoding greedily, goes on with `line`."""
    prompt = line_break(tokenizer, [tokenizer.bos_id, *tokenizer.encode(before)[-CONTEXT_TOKENS:]])
    stream, answer = StreamDecoder(tokenizer, len(prompt.taken)), ""
    max_tokens = len(tokenizer.encode("\n" + line)) + SPARE_TOKENS
    generation = generate(model, prompt.ids, max_tokens, temperature=0, first_ids=prompt.first_ids)
    num_tokens = 0
    for id_ in generation:
        num_tokens += 1
        answer += stream.push(id_)
        if (known := verdict(answer, line)) is not None:
            generation.close()
            return known
    return num_tokens < max_tokens and verdict(answer + "\n", line) is True  # the model ended the file


def measure(folder: Path, arithmetic: str, chosen: Sequence[tuple[str, str]]) -> dict[str, object]:
    """The share of cases that are won, its standard error, and how long they took."""
    tokenizer, model = Tokenizer.load(folder), load(folder, arithmetic)
    began = time.perf_counter()
    won = sum(is_next(model, tokenizer, before, line) for before, line in chosen)
    share = won / len(chosen)
    return {
        "model": str(folder), "won": won, "of": len(chosen), "share": share,
        "standard_error": math.sqrt(share * (1 - share) / len(chosen)), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--arithmetic", default="released")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file to append the JSON lines to")
    args = parser.parse_args()
    if args.num < 1:
        parser.error(f"--num {args.num} is not allowed; expected 1 or more")

    found = [case for document in load_corpus(args.data).held_out for case in cases(document)]
    chosen = random.Random(args.seed).sample(found, min(args.num, len(found)))
    table = Table("model", "next lines", "of", "share", "standard error", "seconds",
                  title=f"greedy, {args.arithmetic}, up to {CONTEXT_TOKENS} tokens before the line")  # fmt: skip
    lines = []
    for folder in args.models:
        figures = measure(folder, args.arithmetic, chosen)
        lines.append(
            circumstances(1) | {"bench": "next_line", "arithmetic": args.arithmetic, "seed": args.seed} | figures
        )
        table.add_row(str(folder), str(figures["won"]), str(figures["of"]), f"{figures['share']:.1%}",
                      f"{figures['standard_error']:.1%}", f"{figures['seconds']:.0f}")  # fmt: skip
    Console().print(table)
    for line in lines:
        print(json.dumps(line))
    if args.out:
        append(args.out, lines)


if __name__ == "__main__":
    main()
