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

test("sources of outer blocks are the text", () => {
  const text = "# a\n\nb\nc\n\n- d\n\n  e\n\n> f";
  assert.equal(outerBlocks(text).map((one) => one.source).join("\n").replace(/\n+/g, "\n"), text.replace(/\n+/g, "\n"));
});

test("hostile texts are read in time that grows with their length", () => {
  const patterns = ["*", "[", "a`", "**a ", "> ", "- ", "[a](", "_a*b", "<", "h", "![", "| ", "~~a", "\\", "1. ", "``` ", "a\n", "|-"];
  for (const pattern of patterns) {
    const blocks = outerBlocks(pattern.repeat(Math.floor(60_000 / pattern.length)));
    assert.ok(blocks.length >= 1, pattern);
  }
});
