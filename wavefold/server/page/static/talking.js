/** What a reader does in a conversation, and the answer that is being written: one at a time on this page. */

import { ApiError } from "./api.js";
import { chatFields } from "./settings.js";
import { streamAnswer } from "./stream.js";
import { addTurn, messagesOf, newConversation } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation */
/** @typedef {import("./tree.js").Turn} Turn */
/**
 * @typedef {object} Watcher who shows it
 * @property {() => void} changed turns came or went, or an answer ended
 * @property {(turn: Turn) => void} grown
 * @property {(turn: Turn, read: number, of: number) => void} progress
 * @property {(turn: Turn) => void} ended
 */

export class Talking {
  /** @type {{talk: Conversation, turn: Turn, controller: AbortController, forgotten: boolean} | null} */
  running = null;
  model = "";

  /**
   * @param {import("./api.js").Api} api @param {import("./store.js").Store} store
   * @param {import("./settings.js").Settings} settings @param {Watcher} watcher
   */
  constructor(api, store, settings, watcher) {
    this.api = api;
    this.store = store;
    this.settings = settings;
    this.watcher = watcher;
    this.talk = newConversation();
  }

  /** @param {Conversation} talk */
  open(talk) {
    this.talk = talk;
    this.watcher.changed();
  }

  /** @param {string} text @param {string | null} parent the turn above */
  send(text, parent) {
    const turn = addTurn(this.talk, parent, "user", text);
    return this.answer(turn.id);
  }

  /** Another answer beside this one. @param {Turn} turn */
  again(turn) {
    return this.answer(turn.parent);
  }

  /** A changed text becomes a sibling; a message is asked again, an answer stands. @param {Turn} turn @param {string} text */
  async edited(turn, text) {
    if (turn.role === "user") return this.send(text, turn.parent);
    addTurn(this.talk, turn.parent, "assistant", text, { finish: "edited", model: turn.model });
    const kept = this.store.keep(this.talk);
    this.watcher.changed();
    await kept;
  }

  stop() {
    this.running?.controller.abort();
  }

  /** The conversation is deleted: its answer stops and is not kept. @param {Conversation} talk */
  forget(talk) {
    if (this.running?.talk !== talk) return;
    this.running.forgotten = true;
    this.stop();
  }

  /** Writes an answer below a turn. @param {string | null} parent */
  async answer(parent) {
    if (this.running) return;
    const { talk, model } = this;
    const turn = addTurn(talk, parent, "assistant", "", { model });
    const body = { model, messages: messagesOf(talk, turn.id), ...chatFields(this.settings) };
    const controller = new AbortController();
    const running = (this.running = { talk, turn, controller, forgotten: false });
    this.store.keep(talk);
    this.watcher.changed();
    try {
      const outcome = await streamAnswer(this.api, "v1/chat/completions", body, controller.signal, this.#listener(talk, turn));
      Object.assign(turn, outcome);
    } catch (error) {
      if (controller.signal.aborted) turn.finish = "stopped";
      else {
        turn.finish = "error";
        turn.error = error instanceof ApiError ? error.message : `The page failed: ${error}`;
      }
    }
    this.running = null;
    talk.updated = Date.now();
    this.watcher.ended(turn);
    this.watcher.changed();
    if (!running.forgotten) await this.store.keep(talk);
  }

  /** @param {Conversation} talk @param {Turn} turn @returns {import("./stream.js").Listener} */
  #listener(talk, turn) {
    const grown = () => {
      this.store.keep(talk, { soon: true });
      this.watcher.grown(turn);
    };
    return {
      progress: (read, of) => this.watcher.progress(turn, read, of),
      reasoning: (text) => {
        turn.reasoning += text;
        grown();
      },
      text: (text) => {
        turn.content += text;
        grown();
      },
      tokens: (tokens) => {
        turn.tokens = tokens;
      },
    };
  }
}

/** An answer that a closed page left unfinished is marked as stopped. @param {Conversation} talk */
export function mended(talk) {
  for (const turn of Object.values(talk.turns)) if (turn.role === "assistant" && turn.finish === "") turn.finish = "stopped";
  return talk;
}
