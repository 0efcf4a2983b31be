// Models and batches in words; looks that never overlap.
import assert from "node:assert/strict";
import { test } from "node:test";

const pool = await import(`${process.env.PAGE}/pool.js`);
const jobs = await import(`${process.env.PAGE}/jobs.js`);
const { Looking } = await import(`${process.env.PAGE}/looking.js`);
const { errorWords } = await import(`${process.env.PAGE}/api.js`);
const NOW = Date.parse("2026-01-02T03:04:05Z");

test("times since a last use", () => {
  const since = (seconds) => pool.ago(new Date(NOW - 1000 * seconds).toISOString(), NOW);
  assert.deepEqual([0, 59, 60, 3599, 3600, 86399, 86400, 172799, 172800].map(since),
    ["just now", "just now", "1 min ago", "59 min ago", "1 h ago", "23 h ago", "1 day ago", "1 day ago", "2 days ago"]);
  assert.equal(pool.ago("soon", NOW), "–");
});

test("what a button does, and what has changed", () => {
  const model = (name, state, fault = null) => ({ name, state, fault });
  assert.deepEqual(["on disk", "loading", "loaded", "leaving", "faulty"].map((state) => pool.actOf({ state })), ["load", null, "unload", null, null]);
  const before = new Map([["a", "loaded"], ["b", "on disk"], ["c", "on disk"]]);
  assert.equal(pool.changeWords(before, [model("a", "leaving"), model("b", "on disk"), model("c", "faulty", "cut"), model("new", "loaded")]), "a: leaving; c: faulty, cut");
});

test("progress and time left", () => {
  const batch = (status, total, completed, failed, own = {}) => ({ status, request_counts: { total, completed, failed }, wavefold: { left_s: null, paused: null, ...own } });
  assert.equal(jobs.progressWords(batch("in_progress", 12000, 37, 2, { left_s: 5400 })), "39 of 12,000 done, 2 of them failed, about 90 min of work left");
  assert.equal(jobs.progressWords(batch("completed", 3, 3, 0, { left_s: 7 })), "3 of 3 done");
  assert.equal(jobs.progressWords(batch("failed", 0, 0, 0)), "");
  assert.deepEqual([0.4, 1.2, 99, 100, 5999, 6000, 259199, 259200].map(jobs.durationWords),
    ["less than 1 s", "about 1 s", "about 99 s", "about 2 min", "about 100 min", "about 2 h", "about 72 h", "about 3 days"]);
  assert.deepEqual(["in_progress", "completed", "validating"].map((status) => jobs.stateWords(batch(status, 1, 0, 0))), ["running", "completed", "validating"]);
  assert.equal(jobs.stateWords(batch("in_progress", 1, 0, 0, { paused: "full" })), "paused");
  assert.equal(jobs.stateWords(batch("completed", 1, 1, 0, { paused: "full" })), "completed");
  assert.equal(jobs.progressWords({ status: "in_progress", request_counts: { total: 2, completed: 1, failed: 0 } }), "1 of 2 done");
});

test("the endpoint that a file is for", () => {
  assert.equal(jobs.endpointOf('\n{"url": "/v1/responses"}\n{"url'), "/v1/responses");
  for (const other of ["", "no", "{}", '{"url": "/v1/other"}', '{"url": "/v1/resp', "null"]) assert.equal(jobs.endpointOf(other), null);
});

test("a model that cannot be loaded is no fault of the server", () => {
  assert.equal(errorWords(503, { error: { message: "model 'a' cannot be loaded: it is cut", code: "model_not_loaded" } }), "model 'a' cannot be loaded: it is cut");
  assert.equal(errorWords(503, { error: { message: "queue.db: the disk cannot be read or written", code: "queue_not_ready" } }), "queue.db: the disk cannot be read or written");
  assert.match(errorWords(507, { error: { message: "no room" } }), /disk is full. no room/);
});

test("looks do not overlap, one that is wanted meanwhile follows, and none comes when it has stopped", async () => {
  globalThis.document = { hidden: false };
  const ends = [];
  let looks = 0;
  const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
  const looking = new Looking(() => { looks += 1; return new Promise((resolve) => ends.push(resolve)); }, () => 1e6);
  looking.start();
  looking.now();
  looking.now();
  assert.equal(looks, 1);
  ends.pop()();
  await turn();
  assert.equal(looks, 2);
  looking.stop();
  ends.pop()();
  await turn();
  looking.now();
  assert.equal(looks, 2);
  looking.start();
  assert.equal(looks, 3);
  ends.pop()();
  await turn();
  document.hidden = true;
  looking.now();
  await turn();
  assert.equal(looks, 3);
  looking.stop();
});
