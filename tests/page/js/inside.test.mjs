// Numbers of Look inside: marks cover the tokens they stand for, and no mass is lost.
import assert from "node:assert/strict";
import { test } from "node:test";

const inside = await import(`${process.env.PAGE}/inside_numbers.js`);
const { bytes, machineRows } = await import(`${process.env.PAGE}/machine.js`);
const { sentencesEnd } = await import(`${process.env.PAGE}/announce.js`);

const tokens = Array.from({ length: 300 }, (_, id) => ({ id, text: `t${id} ` }));
const csa = {
  layer: 1, kind: "csa", window: { first: 172, mass: Array(128).fill(0.4 / 128) }, sink_mass: 0.1, hashed: false, experts: [],
  entries: { ratio: 4, overlap: true, count: 75, chosen: [70, 2, 0], scores: [3, 2, 1], mass: [0.1, 0.3, 0.1] },
};
const hca = { ...csa, kind: "hca", entries: { ratio: 128, overlap: false, count: 2, chosen: null, scores: null, mass: [0.1, 0.4] } };
const alone = { ...csa, kind: "window", entries: null };
const near = (one, other) => assert.ok(Math.abs(one - other) < 1e-9, `${one} is not ${other}`);

test("shares", () => {
  const { window, entries, sink } = inside.shares(csa);
  near(window + entries + sink, 1);
  near(inside.shares(alone).entries, 0);
});

test("entries in the order of the text, with their rank by score or mass", () => {
  assert.deepEqual(inside.entryMarks(csa).map(({ number, from, to, rank, score, mass }) => [number, from, to, rank, score, mass]), [[0, 0, 4, 3, 1, 0.1], [2, 8, 12, 2, 2, 0.3], [70, 280, 284, 1, 3, 0.1]]);
  assert.deepEqual(inside.entryMarks(hca).map(({ number, from, to, rank }) => [number, from, to, rank]), [[0, 0, 128, 2], [1, 128, 256, 1]]);
  assert.deepEqual(inside.entryMarks(alone), []);
  assert.equal(inside.stops(csa).length, 131);
});

test("the heat of all tokens is all mass but the sink's", () => {
  for (const layer of [csa, hca, alone]) {
    const { window, entries } = inside.shares(layer);
    near(inside.heatOfTokens(layer, 300).reduce((sum, one) => sum + one, 0), window + entries);
  }
  near(inside.heatOfTokens(csa, 300)[9], 0.3 / 4);
  near(inside.heatOfTokens(csa, 300)[281], 0.1 / 4 + 0.4 / 128);
});

test("marks in words", () => {
  const [first, second] = inside.entryMarks(csa);
  assert.deepEqual(inside.markWords(csa, second, tokens), { where: "entry 2, tokens 8 to 11 and those of the entry before, chosen as number 2", mass: "30.0 %", text: "t8 t9 t10 t11 " });
  assert.match(inside.markWords(csa, first, tokens).where, /^entry 0, tokens 0 to 3, chosen/);
  assert.equal(inside.markWords(csa, inside.windowMarks(csa)[0], tokens).where, "window, token 172");
});

test("percent, invisible signs", () => {
  assert.deepEqual([0, 0.00001, 0.0012, 0.0312, 1].map(inside.percent), ["0 %", "< 0.01 %", "0.12 %", "3.1 %", "100.0 %"]);
  assert.equal(inside.visible(" a\n\tb "), "·a↵⇥b·");
  assert.equal(inside.visible(""), "∅");
  assert.equal(inside.visible("<｜begin▁of▁sentence｜>"), "<|begin_of_sentence|>");
});

test("blocks of the cache", () => {
  assert.deepEqual(inside.blockFills(300, { blocks: 3, prefix_hit_tokens: 128 }), [{ filled: 1, hit: 1 }, { filled: 1, hit: 0 }, { filled: 44 / 128, hit: 0 }]);
});

test("the part of a long text that is shown holds the token", () => {
  for (const count of [1, 10, 480, 481, 5000]) for (const at of [0, Math.floor(count / 2), count - 1]) {
    const { from, to } = inside.around(count, at, 480);
    assert.ok(from >= 0 && from <= at && at < to && to <= count && to - from === Math.min(count, 480), `${count} ${at}`);
  }
});

test("the first token that was written", () => {
  const texts = ["<bos>", "ab", "", "cd", "e"].map((text, id) => ({ id, text }));
  assert.deepEqual([0, 1, 2, 3, 4, 5].map((characters) => inside.firstBehind(texts, characters)), [1, 1, 3, 3, 4, 5]);
});

test("the machine in words", () => {
  assert.deepEqual([0, 999, 1000, 123_456_789, 5e15].map(bytes), ["0 B", "999 B", "1.0 kB", "123 MB", "5000 TB"]);
  const rows = machineRows({ tokens_per_s: 30, bound_tokens_per_s: 60, bytes_read: 5, requests: { running: 1, waiting: 0 }, prefix_blocks: { used: 1, total: 4 } });
  assert.deepEqual(rows.map(({ value, share }) => [value, share]), [["30.0 tokens/s of at most 60.0", 0.5], ["1 running, 0 waiting", null], ["1 of 4", 0.25], ["5 B", null]]);
  assert.equal(machineRows({})[0].value, "no answer yet");
});

test("sentences that can be spoken", () => {
  assert.equal(sentencesEnd("no end yet"), 0);
  assert.equal(sentencesEnd("One. Two"), 4);
  assert.equal(sentencesEnd("3.14"), 0);
  assert.equal(sentencesEnd("a\nb"), 2);
});
