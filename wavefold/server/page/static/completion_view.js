/** Completion of a text, or of the gap between two (fill in the middle), by /v1/completions. */

import { problemWords } from "./api.js";
import { h, iconButton } from "./dom.js";
import { completionFields } from "./settings.js";
import { costWords, readingWords, streamAnswer } from "./stream.js";
import { grow } from "./turn_view.js";

const EXAMPLE = { before: "def mean(values):\n    \"\"\"Returns the mean of a list of numbers.\"\"\"\n", after: "" };

/**
 * @typedef {object} CompletionPlace
 * @property {import("./api.js").Api} api
 * @property {import("./settings.js").Settings} settings
 * @property {import("./announce.js").Announcer} announcer
 * @property {() => string} model
 * @property {(subject: () => import("./inside_view.js").Subject | null) => void} look what was written, for the model that is chosen then
 */

export class CompletionView {
  text = "";
  /** @type {AbortController | null} */
  #running = null;
  /** @type {import("./tree.js").Usage | null} */
  #usage = null;
  /** @type {import("./tree.js").Tokens | null} */
  #tokens = null;

  /** @param {HTMLElement} root @param {CompletionPlace} place */
  constructor(root, place) {
    this.place = place;
    this.before = this.#field("complete-before", "Before", "The text that the model goes on from", EXAMPLE.before);
    this.after = this.#field("complete-after", "After", "Optional: the text that follows the gap", EXAMPLE.after);
    this.answer = h("output", { class: "gap", id: "complete-answer", "aria-label": "What the model wrote", tabindex: "0" });
    this.cost = h("span", { class: "cost" });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.run = h("button", { type: "submit", class: "button main-button", id: "complete" }, "Complete");
    this.halt = iconButton("stop", "Stop", () => this.stop(), { class: "button", hidden: true, id: "complete-stop" });
    this.take = iconButton("check", "Take over", () => this.#takeOver(), { hidden: true });
    this.look = iconButton("look", "Look inside", () => this.lookInside(), { hidden: true });
    this.form = h("form", { class: "completion-form" },
      h("h1", {}, "Completion"), h("p", { class: "note" }, "The model goes on from the first text. With a second one, it fills the gap between them."),
      h("div", { class: "sheet" }, this.before.row, h("div", { class: "gap-row" }, this.answer), this.after.row), this.problem,
      h("footer", { class: "completion-foot" }, this.run, this.halt, this.take, this.look, this.cost));
    this.form.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); this.complete(); });
    this.form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.complete();
    });
    root.append(this.form);
  }

  /** @param {string} id @param {string} label @param {string} hint @param {string} text */
  #field(id, label, hint, text) {
    const area = h("textarea", { id, rows: "2", spellcheck: "false", autocapitalize: "off", value: text, "aria-describedby": `${id}-hint` });
    area.addEventListener("input", () => grow(area));
    return { area, row: h("div", { class: "field" }, h("label", { for: id }, label), h("span", { class: "note", id: `${id}-hint` }, hint), area) };
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  async complete() {
    if (this.#running) return;
    const { announcer, api } = this.place;
    const prompt = this.before.area.value;
    const suffix = this.after.area.value;
    const model = this.place.model();
    const body = { model, prompt, ...(suffix ? { suffix } : {}), ...completionFields(this.place.settings) };
    this.#running = new AbortController();
    this.asked = { model, prompt, suffix };
    this.text = "";
    this.#usage = null;
    this.#tokens = null;
    this.#show("");
    announcer.begin();
    announcer.say("The model writes");
    let finish = "";
    try {
      const outcome = await streamAnswer(api, "v1/completions", body, this.#running.signal, {
        progress: (read, of) => (this.cost.textContent = readingWords(read, of)),
        text: (text) => { this.text += text; this.#show(""); announcer.grow(this.text); },
        tokens: (tokens) => (this.#tokens = tokens),
      });
      this.#usage = outcome.usage;
      finish = outcome.finish;
    } catch (error) {
      finish = this.#running.signal.aborted ? "stopped" : "error";
      if (finish === "error") this.#fail(error);
    }
    this.#running = null;
    this.#show(finish);
    announcer.end(finish === "stopped" ? "Stopped" : finish === "error" ? "" : "Completion complete");
  }

  /** @param {unknown} error */
  #fail(error) {
    this.problem.textContent = problemWords(error);
  }

  /** @param {string} finish "" while it is written */
  #show(finish) {
    const writing = finish === "";
    this.answer.textContent = this.text;
    this.answer.classList.toggle("writing", writing);
    this.run.hidden = writing;
    this.halt.hidden = !writing;
    this.take.hidden = this.look.hidden = writing || !this.text;
    this.problem.hidden = finish !== "error";
    if (!writing) this.cost.textContent = costWords({ finish, usage: this.#usage });
    else if (this.text) this.cost.textContent = "";
  }

  /** The answer joins the text before it. */
  #takeOver() {
    this.before.area.value += this.text;
    grow(this.before.area);
    this.text = "";
    this.#show("stop");
    this.cost.textContent = "";
    this.before.area.focus();
  }

  lookInside() {
    if (this.asked && this.text) this.place.look(() => this.#subject());
  }

  /** Token ids are those of the model that wrote; another one reads the text. @returns {import("./inside_view.js").Subject | null} */
  #subject() {
    if (!this.asked || !this.text) return null;
    const { model: writer, prompt, suffix } = this.asked;
    const model = this.place.model();
    const tokens = model === writer ? this.#tokens : null;
    if (tokens) return { model, writer, body: { ids: tokens.ids }, position: tokens.prompt - 1 };
    const position = this.#usage && model === writer ? this.#usage.prompt - 1 : null;
    if (suffix) return { model, writer, body: { text: prompt, suffix, answer: this.text }, position };
    return { model, writer, body: { text: prompt + this.text }, position, written: prompt.length };
  }

  shown() {
    grow(this.before.area);
    grow(this.after.area);
  }
}
