// The stream parser: any cut of a stream gives the same events.
import assert from "node:assert/strict";
import { test } from "node:test";

const { EventParser, progressOf, readEvents } = await import(`${process.env.PAGE}/sse.js`);

const STREAM = "\uFEFF: progress 1/3\n\ndata: one\r\n\r\nevent: odd\rdata:two\rdata:  three\r\r: keep-alive\n\nid: 4\nretry: 9\ndata\n\ndata: é😀\n\nevent: alone\n\ndata: cut";
const EXPECTED = [
  ["comment", "progress 1/3"], ["message", "one"], ["odd", "two\n three"], ["comment", "keep-alive"], ["message", ""], ["message", "é😀"],
];

function parsed(pieces) {
  const found = [];
  const parser = new EventParser((event) => found.push([event.name, event.data]), (comment) => found.push(["comment", comment]));
  for (const piece of pieces) parser.push(piece);
  parser.end();
  return found;
}

test("every cut in two", () => {
  for (let at = 0; at <= STREAM.length; at++) assert.deepEqual(parsed([STREAM.slice(0, at), STREAM.slice(at)]), EXPECTED, `cut at ${at}`);
});

test("character by character", () => assert.deepEqual(parsed(STREAM), EXPECTED));

test("an event without its blank line is dropped", () => assert.deepEqual(parsed(["data: cut"]), []));

test("a last CR ends its line", () => assert.deepEqual(parsed(["data: x\n\r"]), [["message", "x"]]));

test("progress", () => {
  assert.deepEqual(progressOf("progress 1024/50000"), { read: 1024, of: 50000 });
  for (const other of ["keep-alive", "progress", "progress 1/", "progress -1/2", "progress 1/2 x"]) assert.equal(progressOf(other), null);
});

test("bytes cut within a character", async () => {
  const bytes = new TextEncoder().encode("data: é😀\n\n");
  for (let at = 0; at <= bytes.length; at++) {
    const found = [];
    const body = new ReadableStream({ start(to) { to.enqueue(bytes.slice(0, at)); to.enqueue(bytes.slice(at)); to.close(); } });
    await readEvents(body, new EventParser((event) => found.push(event.data)));
    assert.deepEqual(found, ["é😀"]);
  }
});
