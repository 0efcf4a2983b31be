/**
 * A conversation as a tree of turns: editing a turn or asking again makes a sibling, and nothing is lost.
 *
 *     system text
 *       └ "Hello" ─┬ answer 1
 *                  ├ answer 2 ── "And then?" ── answer        siblings: `choose` goes through them
 *       └ "Hi"     └ ...
 *
 * Plain data, which a store can keep as it is; the functions change the conversation that they are given.
 */

/** @typedef {{prompt: number, completion: number, cached: number, seconds: number}} Usage */
/**
 * @typedef {object} Tokens an answer as the model made it
 * @property {number} prompt how many of them are the prompt's
 * @property {number[]} ids
 */
/**
 * @typedef {object} Turn
 * @property {string} id
 * @property {string | null} parent
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string} reasoning what the model thought before its answer, or ""
 * @property {string} finish "stop", "length", "stopped" or "edited" by the reader, "error"; "" while it is written
 * @property {string} error in words, or ""
 * @property {string} model its name, or ""
 * @property {Usage | null} usage
 * @property {Tokens | null} [tokens] null or absent: not known, or too many to look into
 * @property {string[]} children
 * @property {number} chosen which child is shown
 */
/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} named true once a reader has named it
 * @property {number} created milliseconds since 1970
 * @property {number} updated
 * @property {string} system
 * @property {Object<string, Turn>} turns
 * @property {string[]} roots turns without a parent
 * @property {number} chosen which root is shown
 */

/** @returns {string} */
const newId = () => globalThis.crypto.randomUUID?.() ?? fallbackId();

/** randomUUID needs a secure context, which http:// to another machine is not. */
function fallbackId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} [system] @returns {Conversation} */
export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", named: false, created: now, updated: now, system, turns: {}, roots: [], chosen: 0 };
}

/**
 * Adds a turn below `parent` (null: at the root), beside those that are there, and shows it.
 * @param {Conversation} talk
 * @param {string | null} parent
 * @param {"user" | "assistant"} role
 * @param {string} content
 * @param {Partial<Turn>} [more]
 * @returns {Turn}
 */
export function addTurn(talk, parent, role, content, more = {}) {
  /** @type {Turn} */
  const turn = {
    id: newId(), parent, role, content, reasoning: "", finish: "", error: "", model: "", usage: null,
    children: [], chosen: 0, ...more,
  };
  talk.turns[turn.id] = turn;
  const places = placesOf(talk, parent);
  places.children.push(turn.id);
  places.chosen = places.children.length - 1;
  talk.updated = Date.now();
  if (!talk.named && role === "user" && parent === null) talk.title = titleOf(content);
  return turn;
}

/** What holds a turn's siblings, with the same two fields at the root. @param {Conversation} talk @param {string | null} parent */
function placesOf(talk, parent) {
  if (parent !== null) return talk.turns[parent];
  return {
    children: talk.roots,
    get chosen() { return talk.chosen; },
    set chosen(value) { talk.chosen = value; },
  };
}

/** The turns that are shown, from the first. @param {Conversation} talk @returns {Turn[]} */
export function shownTurns(talk) {
  const turns = [];
  let id = talk.roots[talk.chosen];
  while (id !== undefined) {
    const turn = talk.turns[id];
    turns.push(turn);
    id = turn.children[turn.chosen];
  }
  return turns;
}

/** Where a turn stands among its siblings. @param {Conversation} talk @param {string} id */
export function placeOf(talk, id) {
  const { children } = placesOf(talk, talk.turns[id].parent);
  return { index: children.indexOf(id), count: children.length };
}

/** Shows the sibling so many places on; stays at the ends. @param {Conversation} talk @param {string} id @param {number} by */
export function choose(talk, id, by) {
  const places = placesOf(talk, talk.turns[id].parent);
  places.chosen = Math.min(places.children.length - 1, Math.max(0, places.children.indexOf(id) + by));
  return talk.turns[places.children[places.chosen]];
}

/** Removes a turn and all below it; a sibling is shown instead. @param {Conversation} talk @param {string} id */
export function removeTurn(talk, id) {
  const places = placesOf(talk, talk.turns[id].parent);
  const at = places.children.indexOf(id);
  places.children.splice(at, 1);
  if (places.chosen >= at && places.chosen > 0) places.chosen -= 1;
  const below = [id];
  while (below.length) {
    const gone = /** @type {string} */ (below.pop());
    below.push(...talk.turns[gone].children);
    delete talk.turns[gone];
  }
  talk.updated = Date.now();
}

/** @typedef {{role: string, content: string, reasoning_content?: string}} Message */

/**
 * Messages for the server, up to and without `end`, which is on the path that is shown (null: all of it).
 * An answer that failed before its first word is left out.
 * @param {Conversation} talk
 * @param {string | null} [end]
 * @returns {Message[]}
 */
export function messagesOf(talk, end = null) {
  /** @type {Message[]} */
  const messages = talk.system.trim() ? [{ role: "system", content: talk.system }] : [];
  for (const turn of shownTurns(talk)) {
    if (turn.id === end) break;
    if (turn.role === "assistant" && !turn.content) continue;
    messages.push({ role: turn.role, content: turn.content });
  }
  return messages;
}

/** A title from the first words. @param {string} text */
export function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > 60 ? line.slice(0, 59).trimEnd() + "…" : line;
}

/** The path that is shown as a Markdown document. @param {Conversation} talk */
export function asMarkdown(talk) {
  const parts = [`# ${talk.title || "Conversation"}`];
  if (talk.system.trim()) parts.push("## System", talk.system.trim());
  for (const turn of shownTurns(talk)) parts.push(turn.role === "user" ? "## You" : "## Answer", turn.content);
  return parts.join("\n\n") + "\n";
}
