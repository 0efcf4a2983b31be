"""The page's Markdown held against markdown-it-py, a CommonMark parser that the page has nothing of."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
from typing import Any

import pytest

from tests.page.tools import NO_NODE, STATIC, node

markdown_it = pytest.importorskip("markdown_it")
NODE = node()
pytestmark = pytest.mark.skipif(NODE is None, reason=NO_NODE)

READ = """
const { outerBlocks } = await import(process.env.PAGE + "/markdown.js");
let text = "";
for await (const piece of process.stdin) text += piece;
console.log(JSON.stringify(JSON.parse(text).map((one) => outerBlocks(one).map(({ block }) => block))));
"""

INLINE = [
    "plain words", "**bold** text", "a *slanted* word", "_under_ scored", "snake_case_name here", "a * b*",
    "`code` and ``a ` b``", "[link](https://example.org/a?b=c)", "[link *in*](<https://example.org/>)", "2 * 3 * 4",
    "![picture](https://example.org/a.png)", "***both***", "**bold *and slanted***", "*slanted **and bold***",
    "~~struck~~ out", "escaped \\*stars\\* and \\\\", "<b>html</b>", "a & b < c", "x**2 + y**2", "`a``b`",
    "<https://example.org/x>", "[no link]", "[also] (not)", "[bad](javascript:alert(1))", "`open", "**open",
    "tail  \nhard break", "soft\nbreak", "é 😀 **ü**", "[a](https://example.org/(b))", "5*3*2", "_a_b_", "**a**b",
    '[t](https://example.org/ "title")',
]  # fmt: skip
BLOCKS = [
    "# Heading one", "### Heading *three* ###", "```python\ndef f(x):\n    return x\n```", "~~~\nraw **x**\n~~~",
    "- one\n- two\n- three", "* a\n* b", "1. first\n2. second", "3) third\n4) fourth", "---", "***", "    ",
    "- outer\n  - inner\n    - deep\n- last", "1. step\n\n   more of it\n2. next", "> quoted\n> lines",
    "> # quoted heading\n>\n> - item", "| a | b |\n|---|--:|\n| 1 | 2 |\n| **x** | `y` |", "> one\n\n> two",
    "- item with\n  two lines", "- ```\n  code\n  ```\n- b", "```\n\n\nblank\n```", "####### seven",
    "Here it is:\n| a | b |\n|---|---|\n| 1 | 2 |", "| left | center |\n| :-- | :-: |\n| a |", "- a\n\n- b",
    "#no heading",
]  # fmt: skip


def documents() -> list[str]:
    """Every piece by itself, then random documents of them."""
    draws = random.Random(5)
    texts = [*INLINE, *BLOCKS]
    for _ in range(400):
        parts = draws.choices([*INLINE, *BLOCKS], k=draws.randrange(2, 6))
        texts.append("\n\n".join(parts))
    for _ in range(200):
        texts.append(" ".join(draws.choices([text for text in INLINE if "open" not in text], k=3)))
    return texts


def inline(tokens: list[Any]) -> list[Any]:
    """markdown-it's flat inline tokens as the page's tree."""
    stack: list[tuple[str, list[Any]]] = [("", [])]
    kinds = {"strong": "strong", "em": "emphasis", "s": "struck"}
    for token in tokens:
        nodes = stack[-1][1]
        if token.type in ("text", "html_inline", "text_special"):
            nodes.append({"type": "text", "text": token.content})
        elif token.type == "softbreak":
            nodes.append({"type": "text", "text": "\n"})
        elif token.type == "hardbreak":
            nodes.append({"type": "break"})
        elif token.type == "code_inline":
            nodes.append({"type": "code", "text": token.content})
        elif token.type == "image":
            nodes.append({"type": "link", "href": token.attrs["src"], "inline": inline(token.children)})
        elif token.type.endswith("_open"):
            stack.append((token.attrs.get("href", ""), []))
        else:
            href, inner = stack.pop()
            kind = token.type.removesuffix("_close")
            node = {"type": kinds[kind]} if kind in kinds else {"type": "link", "href": href}
            stack[-1][1].append({**node, "inline": inner})
    return merged(stack[0][1])


def merged(nodes: list[Any]) -> list[Any]:
    """Texts beside each other are one."""
    joined: list[Any] = []
    for one in nodes:
        if "inline" in one:
            one = {**one, "inline": merged(one["inline"])}
        if one["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + one["text"]}
        elif one != {"type": "text", "text": ""}:
            joined.append(one)
    return joined


def blocks(tokens: list[Any]) -> list[Any]:
    """markdown-it's flat block tokens as the page's tree."""
    found: list[Any] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = at
        if token.nesting == 1:
            level = token.level
            end = next(i for i in range(at + 1, len(tokens)) if tokens[i].nesting == -1 and tokens[i].level == level)
        found.append(block(token, tokens[at + 1 : end]))
        at = end + 1
    return found


def block(token: Any, inner: list[Any]) -> Any:
    kind = token.type.removesuffix("_open")
    if kind == "paragraph":
        return {"type": "paragraph", "inline": inline(inner[0].children)}
    if kind == "heading":
        return {"type": "heading", "level": int(token.tag[1]), "inline": inline(inner[0].children)}
    if kind == "fence":
        language = (token.info.split() or [""])[0]
        return {"type": "code", "language": language, "text": token.content.removesuffix("\n"), "open": False}
    if kind == "hr":
        return {"type": "rule"}
    if kind == "blockquote":
        return {"type": "quote", "blocks": blocks(inner)}
    if kind in ("bullet_list", "ordered_list"):
        level = token.level + 1
        places = [i for i, one in enumerate(inner) if one.type == "list_item_open" and one.level == level] + [
            len(inner)
        ]
        parts = [blocks(inner[first + 1 : last - 1]) for first, last in itertools.pairwise(places)]
        return {"type": "list", "ordered": kind == "ordered_list", "start": token.attrs.get("start", 1), "items": parts}
    assert kind == "table", kind
    texts = [inline(inner[i + 1].children) for i, one in enumerate(inner) if one.type in ("th_open", "td_open")]
    heads = [one for one in inner if one.type == "th_open"]
    align = [(one.attrs.get("style") or "text-align:left").removeprefix("text-align:") for one in heads]
    rows = [texts[i : i + len(heads)] for i in range(len(heads), len(texts), len(heads))]
    return {"type": "table", "align": align, "head": texts[: len(heads)], "rows": rows}


def normal(value: Any) -> Any:
    """Texts beside each other joined, everywhere in the page's tree."""
    if isinstance(value, list):
        if value and all(isinstance(one, dict) and one.get("type") in INLINE_KINDS for one in value):
            return merged([normal(one) for one in value])
        return [normal(one) for one in value]
    if isinstance(value, dict):
        return {key: normal(one) for key, one in value.items()}
    return value


INLINE_KINDS = {"text", "code", "break", "strong", "emphasis", "struck", "link"}


def test_markdown_agrees_with_markdown_it() -> None:
    texts = documents()
    command = [str(NODE), "--input-type=module", "-e", READ]
    done = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, timeout=60,
        env=os.environ | {"PAGE": STATIC.as_uri()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    oracle = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).disable(["lheading", "code"])
    pages = [normal(page) for page in json.loads(done.stdout)]
    different = [text for text, page in zip(texts, pages, strict=True) if page != blocks(oracle.parse(text))]
    assert different == []
