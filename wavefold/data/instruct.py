"""A chat dataset from Python sources: questions about functions and classes, answered from docstrings and code.

    Write a Python function `name(args)`: <first sentence>      its source, if that is short
    What does `module.Class.name` do?                           the docstring's first paragraph
    What are the arguments of `module.Class.name`?              its signature

Sources are parsed, never run. Chats of held-out files come from those files alone, so they stay held out:
`instruct_chats(corpus.train, seed)` and `instruct_chats(corpus.held_out, seed)`.
"""

from __future__ import annotations

import ast
import inspect
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wavefold.data.corpus import Document
from wavefold.data.python_source import python_of

MAX_SOURCE_LINES = 40
"""Number of source lines at which an answer is too long."""
MAX_SIGNATURE = 200
"""Longest signature that is asked for, in characters."""

WRITE = ("Write a Python {kind} `{signature}`: {sentence}",
         "Write the {kind} `{signature}` in Python. {sentence}",
         "Implement this Python {kind}: `{signature}`. {sentence}")  # fmt: skip
PURPOSE = ("What does `{path}` do?", "What is `{path}` for?", "Explain `{path}`.")
ARGUMENTS = ("What are the arguments of `{path}`?", "How is `{path}` called?", "What is the signature of `{path}`?")

PACKAGE = re.compile(r"[\w.-]+-\d[^/]*/(?:(?:src|lib|Lib|python)/)?")
"""The beginning of a document's name that is no part of its module: a package's folder, and the one of its sources."""
BESIDE = frozenset(("docs", "doc", "docs_src", "examples", "example", "galleries", "tools", "scripts", "ci", "bench"))
"""Folders of a package that nobody imports from."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class _Found:
    """A function or class with a docstring. `path`: full name. `source`: None if it is long."""

    path: str
    kind: str
    signature: str | None
    docstring: str
    source: str | None


def instruct_chats(documents: Sequence[Document], seed: int) -> list[list[dict[str, str]]]:
    """Returns chats of one question each, in random order. The same documents and seed give the same chats.

    The wording of a question depends only on the seed and on the subject. Of equal questions the first stays.
    Documents that are not Python are skipped. Raises ValueError if no document has a docstring.
    """
    chats: dict[str, list[dict[str, str]]] = {}
    for document in documents:
        for found in _definitions(document):
            wording = random.Random(f"{seed} {document.name} {found.path}")
            for question, answer in _questions(found, wording):
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                chats.setdefault(question, messages)
    if not chats:
        raise ValueError(f"{len(documents)} documents hold no Python with docstrings; expected some to ask about")
    order = list(chats.values())
    random.Random(seed).shuffle(order)
    return order


def _questions(found: _Found, wording: random.Random) -> Iterator[tuple[str, str]]:
    write, purpose, arguments = (wording.choice(phrases) for phrases in (WRITE, PURPOSE, ARGUMENTS))
    paragraph = " ".join(found.docstring.split("\n\n")[0].split())
    if found.source and found.signature:
        sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]
        yield write.format(kind=found.kind, signature=found.signature, sentence=sentence), found.source
    yield purpose.format(path=found.path), paragraph
    if found.signature and found.kind != "class":
        yield arguments.format(path=found.path), f"`{found.signature}`"


def _definitions(document: Document) -> Iterator[_Found]:
    """Yields functions and classes with a docstring, outermost first. The bodies of functions are not searched."""
    if (python := python_of(document)) is None:
        return
    text, tree = python
    inside = PACKAGE.sub("", document.name, count=1) if PACKAGE.match(document.name) else document.name
    if inside != document.name and inside.partition("/")[0] in BESIDE:
        return
    module = inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    yield from _within(tree, module, text.split("\n"), False)


def _within(node: ast.Module | ast.ClassDef, path: str, lines: list[str], in_class: bool) -> Iterator[_Found]:
    for child in node.body:
        if not isinstance(child, Definition):
            continue
        name = f"{path}.{child.name}"
        docstring = inspect.cleandoc(ast.get_docstring(child, clean=False) or "").strip()
        if docstring:
            kind = "class" if isinstance(child, ast.ClassDef) else "method" if in_class else "function"
            yield _Found(name, kind, _signature(child), docstring, _source(child, lines))
        if isinstance(child, ast.ClassDef):
            yield from _within(child, name, lines, True)


def _signature(node: Definition) -> str | None:
    """Returns the signature on one line, without the return annotation, or None if it is long."""
    if isinstance(node, ast.ClassDef):
        inside = ", ".join(map(ast.unparse, [*node.bases, *node.keywords]))
        text = f"{node.name}({inside})" if inside else node.name
    else:
        text = f"{node.name}({ast.unparse(node.args)})"
    return text if len(text) <= MAX_SIGNATURE else None


def _source(node: Definition, lines: list[str]) -> str | None:
    """Returns the dedented source with decorators, or None if it is long or cannot be dedented."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    source = lines[first : node.end_lineno]
    indent = " " * node.col_offset
    if len(source) >= MAX_SOURCE_LINES or not all(line.startswith(indent) or not line.strip() for line in source):
        return None
    return "\n".join(line[node.col_offset :] if line.strip() else "" for line in source)
