/** One message to several models or adapters at once, their answers side by side. */

import { problemWords } from "./api.js";
import { arrange, h, iconButton, put, putProblem } from "./dom.js";
import { chatFields } from "./settings.js";
import { costWords, readingWords, streamAnswer } from "./stream.js";

/** So many are ticked at first: they fit beside each other. */
const FIRST = 4;

/**
 * @typedef {object} ComparePlace
 * @property {import("./api.js").Api} api
 * @property {import("./settings.js").Settings} settings
 * @property {import("./announce.js").Announcer} announcer
 */

export class CompareView {
  /** @type {Map<string, Column>} */
  #columns = new Map();
  /** @type {AbortController | null} */
  #running = null;
  #begun = false;

  /** @param {HTMLElement} root @param {ComparePlace} place */
  constructor(root, place) {
    this.place = place;
    this.text = h("textarea", { id: "compare-text", rows: "2" });
    this.ticks = h("div", { class: "ticks" });
    this.ask = h("button", { type: "submit", class: "button main-button", id: "compare-ask" }, "Ask all");
    this.halt = iconButton("stop", "Stop", () => this.stop(), { class: "button", id: "compare-stop", hidden: true });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.answers = h("ul", { class: "columns", "aria-label": "Answers" });
    this.form = h("form", { class: "panel-form" },
      h("div", { class: "field" }, h("label", { for: "compare-text" }, "Message"), this.text),
      h("fieldset", {}, h("legend", {}, "Who answers"), this.ticks),
      h("footer", { class: "completion-foot" }, this.ask, this.halt), this.problem);
    this.form.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); this.#askAll(); });
    this.text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#askAll();
    });
    root.append(h("div", { class: "panel-inner wide" }, h("h1", {}, "Compare"),
      h("p", { class: "note" }, "One message to several models. Adapters of one model answer together; a model that is not in memory is loaded first."),
      this.form, this.answers));
  }

  /** Models that can be asked now. Ticks of those that stay are kept. @param {string[]} names */
  offer(names) {
    const before = this.#columns;
    this.#columns = new Map(names.map((name, place) => [name, before.get(name) ?? new Column(name, !this.#begun && place < FIRST)]));
    this.#begun ||= names.length > 0;
    arrange(this.ticks, [...this.#columns.values()].map(({ label }) => label));
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  async #askAll() {
    const asked = [...this.#columns.values()].filter(({ tick }) => tick.checked);
    const content = this.text.value;
    if (this.#running) return;
    putProblem(this.problem, !content.trim() ? "Write a message first." : asked.length === 0 ? "Tick at least one model." : "");
    if (!this.problem.hidden) return;
    const { api, settings, announcer } = this.place;
    const running = (this.#running = new AbortController());
    this.#show();
    arrange(this.answers, asked.map(({ root }) => root));
    announcer.say(`${asked.length} ${asked.length === 1 ? "model answers" : "models answer"}`);
    await Promise.all(asked.map((column) => column.fill(api, { messages: [{ role: "user", content }], ...chatFields(settings) }, running.signal)));
    this.#running = null;
    this.#show();
    announcer.say(running.signal.aborted ? "Stopped" : "All answers complete");
  }

  #show() {
    this.ask.hidden = this.isRunning;
    this.halt.hidden = !this.isRunning;
  }
}

/** A model: its tick, and its answer. */
class Column {
  /** @param {string} name @param {boolean} on */
  constructor(name, on) {
    this.name = name;
    this.tick = h("input", { type: "checkbox", checked: on });
    this.label = h("label", { class: "tick" }, this.tick, name);
    this.answer = h("output", { class: "gap", "aria-label": `Answer of ${name}`, tabindex: "0" });
    this.cost = h("p", { class: "cost" });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.root = h("li", { class: "column", "data-model": name }, h("h2", {}, name), this.answer, this.problem, this.cost);
  }

  /** Asks, and shows what comes, to its end. @param {import("./api.js").Api} api @param {object} body @param {AbortSignal} signal */
  async fill(api, body, signal) {
    putProblem(this.problem, "");
    put(this.answer, "");
    put(this.cost, "");
    this.answer.classList.add("writing");
    try {
      const outcome = await streamAnswer(api, "v1/chat/completions", { ...body, model: this.name }, signal, {
        progress: (read, of) => put(this.cost, readingWords(read, of)),
        text: (text) => this.answer.append(text),
      });
      put(this.cost, costWords(outcome));
    } catch (error) {
      if (signal.aborted) put(this.cost, "stopped");
      else putProblem(this.problem, problemWords(error));
    }
    this.answer.classList.remove("writing");
  }
}
