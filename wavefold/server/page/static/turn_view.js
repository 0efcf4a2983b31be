/** One turn on the page: what was written, how it was made, and what can be done with it. */

import { h, iconButton } from "./dom.js";
import { MarkdownView, copied } from "./markdown_view.js";
import { costWords, readingWords } from "./stream.js";

/** @typedef {import("./tree.js").Turn} Turn */
/**
 * @typedef {object} TurnActs
 * @property {(turn: Turn) => void} again
 * @property {(turn: Turn, text: string) => void} edited
 * @property {(turn: Turn, by: number) => void} choose
 * @property {(turn: Turn) => void} look
 */

export class TurnView {
  #editing = false;
  #frame = 0;

  /** @param {Turn} turn @param {{index: number, count: number}} place @param {TurnActs} acts @param {boolean} busy an answer is being written */
  constructor(turn, place, acts, busy) {
    this.turn = turn;
    this.acts = acts;
    const isAnswer = turn.role === "assistant";
    this.text = h("div", { class: isAnswer ? "prose" : "said" });
    this.thought = h("div", { class: "prose" });
    this.thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, "Thinking"), this.thought);
    this.reading = h("div", { class: "reading", hidden: true });
    this.problem = h("p", { class: "turn-problem", hidden: true });
    this.cost = h("span", { class: "cost" });
    this.foot = h("footer", { class: "turn-foot" });
    this.body = h("div", { class: "turn-body" }, isAnswer ? [this.thinking, this.reading] : [], this.text, this.problem);
    this.root = h("li", { class: `turn ${turn.role}`, "data-turn": turn.id, tabindex: "-1" },
      h("h2", { class: "visually-hidden" }, isAnswer ? "Answer" : "You"), this.body, this.foot);
    this.#prose = new MarkdownView(this.text);
    this.#thoughtProse = new MarkdownView(this.thought);
    this.#footer(place, busy);
    this.#show();
  }
  #prose;
  #thoughtProse;

  /** Shows what has come since, once a frame. */
  update() {
    if (this.#editing || this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#show();
      this.onShown();
    });
  }
  onShown() {}

  /** @param {number} read @param {number} of */
  progress(read, of) {
    const words = readingWords(read, of);
    this.reading.replaceChildren(h("progress", { max: String(of), value: read, "aria-label": words }), h("span", {}, words));
    this.reading.hidden = false;
  }

  #show() {
    const { turn } = this;
    if (turn.role === "user") {
      this.text.textContent = turn.content;
      return;
    }
    const writing = turn.finish === "";
    this.root.classList.toggle("writing", writing);
    this.root.setAttribute("aria-busy", String(writing));
    if (turn.content || turn.reasoning || !writing) this.reading.hidden = true;
    else if (!this.reading.firstChild) this.reading.replaceChildren(h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")));
    if (writing && !turn.content && !turn.reasoning) this.reading.hidden = false;
    this.thinking.hidden = !turn.reasoning;
    if (turn.reasoning) {
      this.thinking.querySelector("summary").textContent = writing && !turn.content ? "Thinking…" : "Thoughts before the answer";
      this.#thoughtProse.show(turn.reasoning, writing && !turn.content);
    }
    this.#prose.show(turn.content, writing);
    this.problem.hidden = !turn.error;
    this.problem.textContent = turn.error;
    this.cost.textContent = writing ? "" : costWords(turn);
  }

  /** @param {{index: number, count: number}} place @param {boolean} busy */
  #footer({ index, count }, busy) {
    const { turn, acts } = this;
    const actions = h("span", { class: "turn-actions" });
    if (count > 1) {
      const sibling = turn.role === "user" ? "message" : "answer";
      actions.append(h("span", { class: "siblings", role: "group", "aria-label": `Versions of this ${sibling}` },
        iconButton("left", `Previous version`, () => acts.choose(turn, -1), { bare: true, disabled: index === 0 || busy, "data-act": "left" }),
        h("span", { class: "place" }, `${index + 1} of ${count}`),
        iconButton("right", `Next version`, () => acts.choose(turn, 1), { bare: true, disabled: index === count - 1 || busy, "data-act": "right" })));
    }
    const copy = iconButton("copy", "Copy", () => copied(copy, turn.content), { "data-act": "copy" });
    actions.append(copy);
    if (!busy) {
      if (turn.role === "assistant") actions.append(iconButton("again", "Again", () => acts.again(turn), { "data-act": "again" }));
      actions.append(iconButton("edit", "Edit", () => this.edit(), { "data-act": "edit" }));
      if (turn.role === "assistant" && turn.content) actions.append(iconButton("look", "Look inside", () => acts.look(turn), { "data-act": "look" }));
    }
    this.foot.replaceChildren(actions, this.cost);
  }

  /** Puts a text field in the turn's place. */
  edit() {
    if (this.#editing) return;
    this.#editing = true;
    const { turn } = this;
    const isAnswer = turn.role === "assistant";
    const area = h("textarea", { "aria-label": isAnswer ? "Edit this answer" : "Edit this message", value: turn.content, rows: "3" });
    const close = () => {
      this.#editing = false;
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector("[data-act=edit]")?.focus();
    };
    const save = () => {
      if (!area.value.trim()) return;
      this.acts.edited(turn, area.value);
    };
    const form = h("form", { class: "editing", on: { submit: (/** @type {Event} */ event) => { event.preventDefault(); save(); } } }, area,
      h("p", { class: "note" }, isAnswer ? "The conversation goes on from the changed answer; the old one stays." : "This asks again; the old message and its answers stay."),
      h("footer", {}, h("button", { type: "button", class: "button", on: { click: close } }, "Cancel"),
        h("button", { type: "submit", class: "button main-button" }, isAnswer ? "Keep" : "Send")));
    area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        close();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    });
    this.body.replaceWith(form);
    this.foot.hidden = true;
    grow(area);
    area.addEventListener("input", () => grow(area));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** Makes a text field as tall as its text, as far as the style sheet allows. @param {HTMLTextAreaElement} area */
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
