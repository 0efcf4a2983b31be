// What is kept of conversations and settings.
import assert from "node:assert/strict";
import { test } from "node:test";

const { MemoryShelf, Store } = await import(`${process.env.PAGE}/store.js`);
const { addTurn, newConversation } = await import(`${process.env.PAGE}/tree.js`);
const { mended } = await import(`${process.env.PAGE}/talking.js`);
const settings = await import(`${process.env.PAGE}/settings.js`);

test("without IndexedDB the page says that nothing lasts", async () => {
  const store = await Store.open(undefined);
  assert.equal(store.lasting, false);
  const refusing = { open() { throw new Error("SecurityError"); } };
  assert.equal((await Store.open(refusing)).lasting, false);
});

test("kept, renamed, listed newest first, removed", async () => {
  const shelf = new MemoryShelf();
  const store = new Store(shelf);
  const [one, two] = [newConversation(), newConversation()];
  addTurn(one, null, "user", "first");
  addTurn(two, null, "user", "second");
  [one.updated, two.updated] = [1, 2];
  await store.keep(one);
  await store.keep(two);
  assert.deepEqual(store.list().map((talk) => talk.title), ["second", "first"]);
  await store.rename(one, "  mine ");
  addTurn(one, null, "user", "another");
  assert.equal(one.title, "mine");
  const again = new Store(shelf);
  await again.load();
  assert.equal(again.get(one.id).title, "mine");
  await again.remove(two.id);
  assert.deepEqual((await shelf.all()).map((talk) => talk.id), [one.id]);
});

test("writes that may wait are joined, and flushed when the page leaves", async () => {
  let writes = 0;
  const shelf = new MemoryShelf();
  const put = shelf.put.bind(shelf);
  shelf.put = async (talk) => { writes += 1; await put(talk); };
  const store = new Store(shelf);
  const talk = newConversation();
  for (let step = 0; step < 50; step++) await store.keep(talk, { soon: true });
  assert.equal(writes, 0);
  await store.flush();
  assert.equal(writes, 1);
  await store.keep(talk, { soon: true });
  await store.remove(talk.id);
  await store.flush();
  assert.deepEqual([writes, await shelf.all()], [1, []]);
});

test("a write that fails is told", async () => {
  const shelf = new MemoryShelf();
  shelf.put = async () => { throw new Error("disk full"); };
  const store = new Store(shelf);
  let told = "";
  store.onProblem = (problem) => (told = problem);
  await store.keep(newConversation());
  assert.match(told, /did not keep.*disk full/);
});

test("an answer that a closed page left is marked", () => {
  const talk = newConversation();
  const said = addTurn(talk, null, "user", "a");
  addTurn(talk, said.id, "assistant", "b");
  assert.equal(Object.values(mended(talk).turns)[1].finish, "stopped");
});

test("settings: bounds, what is kept, what is sent", () => {
  const [temperature, longest] = ["temperature", "max_tokens"].map((name) => settings.FIELDS.find((field) => field.name === name));
  assert.equal(settings.valueOf(temperature, " "), null);
  assert.equal(settings.valueOf(temperature, "0.5"), 0.5);
  for (const typed of ["-1", "3", "x", "Infinity"]) assert.throws(() => settings.valueOf(temperature, typed), RangeError);
  assert.throws(() => settings.valueOf(longest, "1.5"), /whole number/);
  const kept = settings.readSettings('{"values":{"temperature":0.5,"top_p":7,"evil":1},"thinking":"low","theme":"pink"}');
  assert.deepEqual(kept, { values: { temperature: 0.5 }, thinking: "low", theme: "" });
  for (const text of [null, "", "{", "[]", "3", '{"values":3}']) assert.deepEqual(settings.readSettings(text), settings.defaults());
  assert.deepEqual(settings.chatFields(kept), { temperature: 0.5, thinking: { type: "enabled" }, reasoning_effort: "low" });
  assert.deepEqual(settings.chatFields({ ...kept, thinking: "off" }).thinking, { type: "disabled" });
  assert.deepEqual(settings.completionFields(kept), { max_tokens: 256, temperature: 0.5 });
  assert.equal(settings.completionFields({ ...kept, values: { max_tokens: 9 } }).max_tokens, 9);
});
