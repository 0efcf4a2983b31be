/** The text as tokens, one of them chosen: arrow keys walk, Enter or a click chooses. Long texts show a part. */

import { h } from "./dom.js";
import { around, visible } from "./inside_numbers.js";

/** @typedef {import("./inside_numbers.js").Token} Token */

const MOST = 480;

export class Ribbon {
  /** @type {HTMLElement[]} */
  #chips = [];
  #from = 0;
  #count = 0;

  /** @param {(token: number) => void} onChoose of the token that was written; one more than there are: the next */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.root = h("div", { class: "ribbon", role: "listbox", "aria-label": "Tokens of the text: choose the one whose making you want to see" });
    this.note = h("p", { class: "note" });
    this.root.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const chip = /** @type {HTMLElement} */ (event.target).closest("[data-token]");
      if (chip instanceof HTMLElement) this.#choose(chip);
    });
    this.root.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
  }

  /** @param {Token[]} tokens @param {number} chosen the token that was made @param {boolean} withFocus */
  show(tokens, chosen, withFocus) {
    const { from, to } = around(tokens.length + 1, chosen, MOST);
    this.#from = from;
    this.#count = tokens.length;
    this.#chips = tokens.slice(from, to).map((token, index) => this.#chip(from + index, token.text, chosen));
    if (to > tokens.length) this.#chips.push(this.#chip(tokens.length, "next", chosen));
    this.root.replaceChildren(...this.#chips);
    this.note.textContent = from > 0 || to <= tokens.length ? `Tokens ${from} to ${Math.min(to, tokens.length) - 1} of ${tokens.length.toLocaleString("en")} are shown.` : "";
    const current = this.#chips[chosen - from];
    current?.scrollIntoView({ block: "nearest" });
    if (withFocus) current?.focus();
  }

  /** @param {number} token @param {string} text @param {number} chosen */
  #chip(token, text, chosen) {
    const isNext = token === this.#count;
    const state = token === chosen ? "chosen" : token > chosen ? "later" : "";
    const shown = isNext ? "next…" : text.replace(/\n/g, "↵\n") || "∅";
    const chip = h("span", { class: `token ${state} ${isNext ? "next" : ""}`, role: "option", "data-token": String(token),
      tabindex: token === chosen ? "0" : "-1", "aria-selected": String(token === chosen) }, shown);
    if (token === 0) chip.setAttribute("aria-disabled", "true");
    if (isNext) chip.setAttribute("aria-label", "the next token, not written yet");
    else if (!text.trim()) chip.setAttribute("aria-label", visible(text));
    return chip;
  }

  /** @param {HTMLElement} chip */
  #choose(chip) {
    const token = Number(chip.dataset.token);
    if (token > 0) this.onChoose(token);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = this.#chips.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const last = this.#chips.length - 1;
    const tenth = Math.max(1, Math.round(last / 10));
    const steps = /** @type {Record<string, number>} */ ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, PageDown: tenth, PageUp: -tenth, Home: -last, End: last });
    if (event.key === "Enter" || event.key === " ") this.#choose(this.#chips[at]);
    else if (event.key in steps && at >= 0) this.#chips[Math.max(0, Math.min(last, at + steps[event.key]))].focus();
    else return;
    event.preventDefault();
  }

  /** Colours each token by its share. @param {Float64Array} heat @param {string} kind */
  warm(heat, kind) {
    let most = 1e-12;
    for (const one of heat) most = Math.max(most, one);
    this.root.dataset.kind = kind;
    this.#chips.forEach((chip, index) => {
      const share = heat[this.#from + index] ?? 0;
      chip.style.setProperty("--heat", String(Math.sqrt(share / most).toFixed(3)));
    });
  }

  /** Frames tokens [from, to), and those that an overlapping entry also reads. @param {number} from @param {number} to */
  frame(from, to) {
    this.#chips.forEach((chip, index) => {
      const token = this.#from + index;
      chip.classList.toggle("framed", from <= token && token < to);
    });
  }
}
