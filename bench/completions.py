"""Do the completions of held-out functions parse?

    python bench/completions.py MODEL [--data stdlib] [--num 50] [--max-tokens 64] [--temperature 0.2] [--seed 0]

Takes `num` functions from the corpus's held-out files (seeded), gives the model the file up to the end of the line on
which the function's first statement ends (the line break is the model's to write: the tokenizer joins it with the signs
before it and the indentation after it, so the prompt's last token may become one that holds it; see
`wavefold/chat/healing.py`), lets it go on, keeps what belongs to the function, cut at its last whole line, and asks
`ast.parse` whether the function so far is Python. An answer without a whole line that is not blank counts as a
failure. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import circumstances
from wavefold.chat import Tokenizer, heal
from wavefold.checkpoint import load
from wavefold.data.corpus import Document, load_corpus
from wavefold.engine import generate

CONTEXT_TOKENS = 512


def functions(document: Document) -> list[tuple[str, str]]:
    """(the file before the function, its head) for each function with at least three statements.

    The head is everything up to the end of the line on which the first statement, docstring aside, ends.
    """
    found = []
    lines = document.text.splitlines(keepends=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old files
        tree = ast.parse(document.text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        if len(body) >= 3 and body[0].end_lineno is not None:
            found.append(("".join(lines[:first]), "".join(lines[first : body[0].end_lineno])))
    return found


def function_of(head: str, answer: str) -> str:
    """The answer up to the first line that is indented no deeper than the function: there another thing begins."""
    indent = len(head) - len(head.lstrip(" "))
    first, *lines = answer.splitlines(keepends=True) or [""]
    for number, line in enumerate(lines):
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
            return "".join([first, *lines[:number]])
    return answer


def parses(head: str, answer: str) -> bool:
    """True if the answer has whole lines, and the head with them is Python inside the classes around it."""
    whole = function_of(head, answer[: answer.rfind("\n") + 1])
    if not whole.strip():
        return False
    text = head.removesuffix("\n") + whole
    indent = len(head) - len(head.lstrip(" "))
    for level in range(0, indent, 4):  # a method: the classes around it
        text = " " * (indent - 4 - level) + "class _:\n" + text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--num", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--arithmetic", default="released")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print each completion")
    args = parser.parse_args()

    tokenizer, model = Tokenizer.load(args.model), load(args.model, args.arithmetic)
    cases = [case for document in load_corpus(args.data).held_out for case in functions(document)]
    chosen = random.Random(args.seed).sample(cases, min(args.num, len(cases)))
    good, num_lines = 0, 0
    for number, (before, head) in enumerate(chosen):
        ids = tokenizer.encode((before + head).removesuffix("\n"))[-CONTEXT_TOKENS:]
        prompt = heal(tokenizer, [tokenizer.bos_id, *ids])
        chosen_ids = generate(
            model, prompt.ids, args.max_tokens, args.temperature, seed=args.seed + number, first_ids=prompt.first_ids
        )
        answer = tokenizer.decode(list(chosen_ids), len(prompt.taken))
        ok = parses(head, answer)
        good += ok
        num_lines += len([line for line in answer[: answer.rfind("\n") + 1].splitlines() if line.strip()])
        if args.show:
            verdict, shown = "parses" if ok else "does not parse", head.removesuffix("\n")
            print(f"--- {number} {verdict}\n{shown}\033[1m{answer}\033[0m")

    line = circumstances(1) | {
        "bench": "completions", "parsed": good, "of": len(chosen), "lines": num_lines, "max_tokens": args.max_tokens,
        "temperature": args.temperature, "arithmetic": args.arithmetic, "seed": args.seed,
    }  # fmt: skip
    table = Table("completions", "parse", "whole lines", "tokens each", "temperature", "arithmetic")
    table.add_row(*map(str, (len(chosen), good, num_lines, args.max_tokens, args.temperature, args.arithmetic)))
    Console().print(table)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
