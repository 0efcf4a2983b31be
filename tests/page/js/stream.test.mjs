// An answer put together from chunks, errors in words, costs in words.
import assert from "node:assert/strict";
import { test } from "node:test";

const { Gathering, costWords, streamAnswer, usageOf } = await import(`${process.env.PAGE}/stream.js`);
const { errorWords } = await import(`${process.env.PAGE}/api.js`);

/** An api whose streams are these texts. */
const apiOf = (text, log = []) => ({
  async stream(path, body) {
    log.push([path, body]);
    return new Blob([text]).stream();
  },
});
const chunk = (value) => `data: ${JSON.stringify(value)}\n\n`;
const delta = (value, more = {}) => chunk({ choices: [{ index: 0, delta: value, ...more }] });

async function answer(text, path = "v1/chat/completions") {
  const got = { text: "", reasoning: "", progress: [] };
  const outcome = await streamAnswer(apiOf(text), path, {}, new AbortController().signal, {
    text: (piece) => (got.text += piece),
    reasoning: (piece) => (got.reasoning += piece),
    progress: (...pair) => got.progress.push(pair),
  });
  return { ...got, ...outcome };
}

test("chat: reasoning, text, usage in a chunk of its own", async () => {
  const usage = { prompt_tokens: 9, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 4 } };
  const got = await answer(`: progress 1/9\n\n${delta({ role: "assistant", content: "" })}${delta({ reasoning_content: "hm" })}${delta({ content: "a" })}${delta({ content: "b" })}${delta({}, { finish_reason: "length" })}${chunk({ choices: [], usage })}data: [DONE]\n\n`);
  assert.deepEqual([got.text, got.reasoning, got.finish, got.progress], ["ab", "hm", "length", [[1, 9]]]);
  assert.deepEqual({ ...got.usage, seconds: 0 }, { prompt: 9, completion: 3, cached: 4, seconds: 0 });
});

test("completions", async () => {
  const got = await answer(chunk({ choices: [{ text: "x" }] }) + chunk({ choices: [{ text: "y", finish_reason: "stop" }] }) + "data: [DONE]\n\n", "v1/completions");
  assert.deepEqual([got.text, got.finish, got.usage], ["xy", "stop", null]);
});

test("DeepSeek's name of cached tokens", () => assert.equal(usageOf({ prompt_tokens: 3, completion_tokens: 1, prompt_cache_hit_tokens: 2 }, 0).cached, 2));

test("what is asked for", async () => {
  const log = [];
  await streamAnswer(apiOf("data: [DONE]\n\n", log), "v1/completions", { prompt: "p" }, new AbortController().signal, {});
  assert.deepEqual(log, [["v1/completions", { prompt: "p", stream: true, stream_options: { include_usage: true }, return_token_ids: true }]]);
});

test("token ids of prompt and answer are told, up to as many as can be looked into", () => {
  const told = [];
  const gathering = new Gathering({ tokens: (tokens) => told.push(tokens && { ...tokens, ids: [...tokens.ids] }) });
  const event = (value) => gathering.event(JSON.stringify(value));
  event({ prompt_token_ids: [0, 5], choices: [{ delta: { role: "assistant" }, token_ids: [] }] });
  event({ choices: [{ delta: { content: "a" }, token_ids: [7, 8] }] });
  event({ choices: [{ delta: {}, finish_reason: "stop", token_ids: [] }] });
  assert.deepEqual(told, [{ prompt: 2, ids: [0, 5] }, { prompt: 2, ids: [0, 5, 7, 8] }]);
  event({ choices: [{ delta: {}, token_ids: Array(20000).fill(1) }] });
  event({ choices: [{ delta: {}, token_ids: [1] }] });
  assert.deepEqual(told.slice(2), [null]);
  const completion = new Gathering({ tokens: (tokens) => told.push(tokens) });
  completion.event(JSON.stringify({ choices: [{ text: "x", prompt_token_ids: [0], token_ids: [3] }] }));
  assert.deepEqual(told[3], { prompt: 1, ids: [0, 3] });
});

test("a stream without its end is an error", () => assert.rejects(answer(delta({ content: "a" })), /ended in the middle/));
test("an error in the stream", () => assert.rejects(answer(delta({ content: "a" }) + chunk({ error: { message: "disk" } })), /disk/));
test("what is no JSON", () => assert.rejects(answer("data: {\n\n"), /no JSON/));

test("Gathering ignores chunks without a choice", () => {
  const gathering = new Gathering({ text: () => assert.fail() });
  gathering.event('{"choices": []}');
  gathering.comment("keep-alive");
  gathering.event("[DONE]");
  assert.deepEqual(gathering.outcome(), { finish: "stop", usage: null });
});

test("errors in words", () => {
  assert.match(errorWords(401, { error: { message: "no key" } }), /API key.*no key/);
  assert.match(errorWords(429, {}, "7"), /Try again in 7 s/);
  assert.match(errorWords(400, { error: { message: "temperature = 9" } }), /refused this. temperature = 9/);
  assert.match(errorWords(502, null), /failed/);
  assert.match(errorWords(302, null), /status 302/);
});

test("costs in words", () => {
  const usage = { prompt: 1200, completion: 11, cached: 1024, seconds: 2 };
  assert.equal(costWords({ finish: "length", usage }), "11 tokens · 5.0 a second · prompt 1,200, 1,024 from the cache · cut at the longest answer");
  assert.equal(costWords({ finish: "stop", usage: { prompt: 1, completion: 1, cached: 0, seconds: 0 } }), "1 token · prompt 1");
  assert.equal(costWords({ finish: "stopped", usage: null }), "stopped");
});
