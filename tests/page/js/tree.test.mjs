// The tree of turns: siblings, the path that is shown, what the server is sent.
import assert from "node:assert/strict";
import { test } from "node:test";

const tree = await import(`${process.env.PAGE}/tree.js`);
const { addTurn, asMarkdown, choose, messagesOf, newConversation, placeOf, removeTurn, shownTurns, titleOf } = tree;
const texts = (talk) => shownTurns(talk).map((turn) => turn.content);

function grown() {
  const talk = newConversation("be kind");
  const hello = addTurn(talk, null, "user", "hello");
  const one = addTurn(talk, hello.id, "assistant", "one");
  const more = addTurn(talk, one.id, "user", "more");
  addTurn(talk, more.id, "assistant", "end");
  return { talk, hello, one, more };
}

test("again makes a sibling, and both can be shown", () => {
  const { talk, hello, one } = grown();
  const two = addTurn(talk, hello.id, "assistant", "two");
  assert.deepEqual(texts(talk), ["hello", "two"]);
  assert.deepEqual(placeOf(talk, two.id), { index: 1, count: 2 });
  assert.equal(choose(talk, two.id, -1).id, one.id);
  assert.deepEqual(texts(talk), ["hello", "one", "more", "end"]);
  assert.equal(choose(talk, one.id, -1).id, one.id);
  assert.equal(choose(talk, one.id, 5).id, two.id);
});

test("an edited first message is a second root", () => {
  const { talk, hello } = grown();
  const hi = addTurn(talk, null, "user", "hi");
  assert.deepEqual(texts(talk), ["hi"]);
  assert.deepEqual(placeOf(talk, hi.id), { index: 1, count: 2 });
  assert.equal(talk.title, "hi");
  choose(talk, hi.id, -1);
  assert.equal(shownTurns(talk)[0].id, hello.id);
});

test("messages end before a turn, and carry the system text", () => {
  const { talk, one } = grown();
  assert.deepEqual(messagesOf(talk, one.id), [{ role: "system", content: "be kind" }, { role: "user", content: "hello" }]);
  assert.equal(messagesOf(talk).length, 5);
  talk.system = "  ";
  assert.equal(messagesOf(talk).length, 4);
});

test("an answer that never began is not sent", () => {
  const { talk, hello } = grown();
  addTurn(talk, hello.id, "assistant", "", { finish: "error", error: "no" });
  assert.deepEqual(messagesOf(talk).map((message) => message.content), ["be kind", "hello"]);
});

test("removal takes all below, and shows a sibling", () => {
  const { talk, hello, one } = grown();
  const two = addTurn(talk, hello.id, "assistant", "two");
  removeTurn(talk, one.id);
  assert.deepEqual(texts(talk), ["hello", "two"]);
  assert.equal(Object.keys(talk.turns).length, 2);
  removeTurn(talk, two.id);
  removeTurn(talk, hello.id);
  assert.deepEqual([texts(talk), talk.roots, talk.turns], [[], [], {}]);
});

test("random growth: every turn can be reached, and its path is its ancestors", () => {
  let seed = 7;
  const draw = (count) => (seed = (seed * 48271) % 2147483647) % count;
  const talk = newConversation();
  const turns = [];
  for (let step = 0; step < 300; step++) {
    const parent = turns.length && draw(10) ? turns[draw(turns.length)] : null;
    turns.push(addTurn(talk, parent?.id ?? null, parent?.role === "user" ? "assistant" : "user", `t${step}`));
  }
  for (const turn of turns) {
    const ancestors = [];
    for (let at = turn; at; at = at.parent === null ? null : talk.turns[at.parent]) ancestors.unshift(at);
    for (const one of ancestors) {
      const places = one.parent === null ? talk.roots : talk.turns[one.parent].children;
      const shown = shownTurns(talk)[ancestors.indexOf(one)];
      choose(talk, shown.id, places.indexOf(one.id) - places.indexOf(shown.id));
    }
    assert.deepEqual(shownTurns(talk).slice(0, ancestors.length).map((one) => one.id), ancestors.map((one) => one.id));
  }
});

test("titles and Markdown", () => {
  assert.equal(titleOf("  a\tb  c\nd"), "a b c");
  assert.equal(titleOf("x".repeat(80)).length, 60);
  assert.equal(asMarkdown(grown().talk), "# hello\n\n## System\n\nbe kind\n\n## You\n\nhello\n\n## Answer\n\none\n\n## You\n\nmore\n\n## Answer\n\nend\n");
});
