// Markdown: nothing of a model becomes HTML or a dangerous address, and no text takes long.
import assert from "node:assert/strict";
import { test } from "node:test";

const { outerBlocks } = await import(`${process.env.PAGE}/markdown.js`);
const { safeAddress } = await import(`${process.env.PAGE}/markdown_inline.js`);
const inline = (text) => outerBlocks(text)[0].block.inline;
/** The text of one paragraph without any mark in it, else what it became. */
const prose = (text) => (inline(text).every((one) => one.type === "text") ? inline(text).map((one) => one.text).join("") : inline(text));
const kinds = (text) => inline(text).map((one) => one.type).filter((type) => type !== "text");
const links = (value) => JSON.stringify(value).match(/"href":"[^"]*"/g) ?? [];

test("addresses: http, https and mailto alone", () => {
  for (const good of ["https://a.b/c?d#e", "http://localhost:1/", "mailto:a@b.c"]) assert.equal(safeAddress(good), good);
  for (const bad of ["javascript:alert(1)", " javascript:alert(1)", "JaVaScRiPt:x", "java\tscript:x", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "//x.y", "/x", "x", "blob:https://a/b"]) assert.equal(safeAddress(bad), "", bad);
  assert.deepEqual(links(outerBlocks("[a](javascript:alert(1)) [b](data:text/html,x) ![c](javascript:x) <javascript:x>")), []);
});

test("a picture is a link, not fetched", () => assert.deepEqual(links(outerBlocks("![a](https://x.y/z.png)")), ['"href":"https://x.y/z.png"']));

test("an open fence is code while it is written", () => {
  const [{ block }] = outerBlocks("```py\nx = 1\n**y**");
  assert.deepEqual(block, { type: "code", language: "py", text: "x = 1\n**y**", open: true });
});

test("names of code keep their underscores", () => {
  const names = [
    "The method __init__(self) calls super().__init__(name).", "It sets self._a and self._b, then self._a_ again.",
    "obj.__dict__[key] and obj.__class__.__name__", "__all__ = [x], __name__ and __main__", "_private_name and other_name",
    "(_a + _b) * _c", "call _inner_() and _row_[0]", "a__b__c", "mod._first and mod.last_",
  ];
  for (const name of names) assert.equal(prose(name), name);
  assert.deepEqual(kinds("_slanted_ and __strong words__"), ["emphasis", "strong"]);
  assert.deepEqual(kinds("(_slanted_), _slanted_."), ["emphasis", "emphasis"]);
});

const PROGRAM = [
  "import os", "from typing import List, Optional", "", "# A comment", "LIMIT = 10", "", "", "@dataclass", "class Stack(Generic[T]):",
  '    """A stack', "", '    of values."""', "", "    def __init__(self):", "        self._a = self._b = []", "", "    def push(self, *values, **named):",
  "        return self._a[0] * self._b", "", "", "if __name__ == \"__main__\":", "    # Run it", "    print(Stack())", "", "for i in range(3):",
  "    print(i)", "else:", "    pass", "print(f'a b {LIMIT}')",
].join("\n");
/** Kinds of the outer blocks, code with its text. */
const shapes = (text, growing) => outerBlocks(text, growing).map(({ block }) => (block.type === "code" ? block.text : block.type));

test("code without a fence is code as it was written", () => {
  assert.deepEqual(shapes(PROGRAM), [PROGRAM]);
  assert.equal(outerBlocks(PROGRAM)[0].block.language, "python");
  assert.deepEqual(shapes(`Here it is:\n\n${PROGRAM}\n\nIt counts *words*.`), ["paragraph", PROGRAM, "paragraph"]);
  assert.deepEqual(shapes("Here it is:\ndef f(x):\n    return x\nThat is all."), ["paragraph", "def f(x):\n    return x", "paragraph"]);
  const whole = [
    "    return self._a\n\n    x = __name__", "\treturn a_b", "def f(a,\n      b):\n    return a", "async def f():\n    await g()", "import numpy as np, os",
    '"""Of a module.\n\nNot _slanted_.\n"""\nx = 1', "with open(path) as f:\n    f.read()", "try:\n    f()\nexcept OSError as error:\n    raise",
    "while not done and x_y:\n    pass", "return x_1 + _x_", "raise ValueError('a b c')", "# Sum\ndef f(): return 1", "total = 0\nfor x in xs:\n    total += x",
    "a_1 = f(x)\nprint(a_1)", "class A: pass", "def f(x: int) -> str: ...", "#!/usr/bin/env python3\nx = 1",
  ];
  for (const code of whole) assert.deepEqual(shapes(code), [code]);
});

test("prose that begins like code is prose", () => {
  const texts = [
    "if it rains, stay.", "if it rains:", "for example:", "for each item in the list:\n    it grows", "import duties rose in 2020", "import it from the shop.",
    "class sizes matter", "class action: a suit", "def is a keyword.", "def reverses a list.", "return the value of x", "return home.", "raise the bar", "try:",
    "while waiting:\nread", "with care:", "from here import taxes rise", "@someone", "x = the sum of all", "print(x) shows it", "try this: os.path", "a line\n    that goes on",
  ];
  for (const text of texts) assert.deepEqual(shapes(text), ["paragraph"], text);
  assert.deepEqual(shapes("# A heading\n\nimport os"), ["heading", "import os"]);
  assert.deepEqual(shapes("def f(): ...\n\n## Why\n\nBecause."), ["def f(): ...", "heading", "paragraph"]);
  assert.deepEqual(shapes("def f(): ...\n\n# Why\n\nBecause."), ["def f(): ...", "heading", "paragraph"]);
  assert.deepEqual(shapes("- item\n\n    goes on\n    import os\n- b"), ["list"]);
  assert.deepEqual(shapes("Items:\n\n    - a\n    - b"), ["paragraph", "paragraph"]);
  assert.deepEqual(shapes("```\nimport os\n```\n- def f():"), ["import os", "list"]);
});

test("code stays code while it is written", () => {
  const text = `${PROGRAM}\n\nThe class counts words.`;
  for (let length = "import".length; length <= PROGRAM.length; length++) {
    const part = text.slice(0, length);
    assert.deepEqual(shapes(part, true).map((one) => one.trimEnd()), [part.trimEnd()], part);
  }
  for (let length = PROGRAM.length + 3; length <= text.length; length++) assert.equal(shapes(text.slice(0, length), true).length, 2);
  for (const start of ["Th", "The class", "The class\n", "The class\ndefi"]) assert.deepEqual(shapes(start, true), ["paragraph"]);
});

test("sources of outer blocks are the text", () => {
  const text = "# a\n\nb\nc\n\n- d\n\n  e\n\n> f";
  assert.equal(outerBlocks(text).map((one) => one.source).join("\n").replace(/\n+/g, "\n"), text.replace(/\n+/g, "\n"));
});

test("hostile texts are read in time that grows with their length", () => {
  const patterns = ["*", "[", "a`", "**a ", "> ", "- ", "[a](", "_a*b", "<", "h", "![", "| ", "~~a", "\\", "1. ", "``` ", "a\n", "|-", "# a\n", "\"\"\"\n", "'''a\"\"\"\n", "\"\\", "a = ", "a, ", "x: y ", "@a\n", "if a:\n", "def f(", "    a\n\n"];
  for (const pattern of patterns) {
    const blocks = outerBlocks(pattern.repeat(Math.floor(60_000 / pattern.length)));
    assert.ok(blocks.length >= 1, pattern);
  }
});
