/** The text as tokens, one of them chosen: arrow keys walk, Enter or a click chooses. Long texts show a part. */

import { h } from "./dom.js";
import { around, marker, visible } from "./inside_numbers.js";

/** @typedef {import("./inside_numbers.js").Token} Token */

const MOST = 480;

export class Ribbon {
  /** @type {HTMLElement[]} */
  #chips = [];
  /** @type {Token[]} */
  #tokens = [];
  #from = 0;
  #chosen = 0;
  /** @type {Float64Array} */
  #heat = new Float64Array();

  /** @param {(token: number) => void} onChoose of the token that was written; one more than there are: the next */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.root = h("div", { class: "ribbon", role: "listbox", "aria-label": "Tokens of the text: choose the one whose making you want to see" });
    this.words = h("span");
    const step = (/** @type {"Earlier" | "Later"} */ label, /** @type {number} */ by) =>
      h("button", { type: "button", class: "button small", on: { click: () => this.#shift(this.#from + MOST / 2 + by) } }, label);
    this.note = h("div", { class: "ribbon-note note" }, this.words, step("Earlier", -MOST * 0.8), step("Later", MOST * 0.8));
    this.root.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      const chip = /** @type {HTMLElement} */ (event.target).closest("[data-token]");
      if (chip instanceof HTMLElement) this.#choose(chip);
    });
    this.root.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
  }

  /** @param {Token[]} tokens @param {number} chosen the token that was made @param {boolean} withFocus */
  show(tokens, chosen, withFocus) {
    this.#tokens = tokens;
    this.#chosen = chosen;
    this.#shift(chosen);
    const current = this.#chips[chosen - this.#from];
    if (current) this.root.scrollTop = current.offsetTop - this.root.clientHeight * 0.6;
    if (withFocus) current?.focus({ preventScroll: true });
  }

  /** Shows the tokens around one. @param {number} at */
  #shift(at) {
    const { length } = this.#tokens;
    const { from, to } = around(length + 1, Math.max(0, Math.min(length, Math.round(at))), MOST);
    this.#from = from;
    this.#chips = this.#tokens.slice(from, to).map((token, index) => this.#chip(from + index, token.text));
    if (to > length) this.#chips.push(this.#chip(length, "next"));
    if (!this.#chips.some((chip) => chip.tabIndex === 0)) this.#chips[0].tabIndex = 0;
    this.root.replaceChildren(...this.#chips);
    this.note.hidden = from === 0 && to > length;
    this.words.textContent = `Tokens ${from} to ${Math.min(to, length) - 1} of ${length.toLocaleString("en")}`;
    this.#color();
  }

  /** @param {number} token @param {string} text */
  #chip(token, text) {
    const chosen = this.#chosen;
    const isNext = token === this.#tokens.length;
    const state = token === chosen ? "chosen" : token > chosen ? "later" : "";
    const shown = isNext ? "next…" : marker(text).replace(/\n/g, "↵\n") || "∅";
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
    const at = this.#from + this.#chips.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const last = this.#tokens.length;
    const tenth = Math.max(1, Math.round(last / 10));
    const steps = /** @type {Record<string, number>} */ ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, PageDown: tenth, PageUp: -tenth, Home: -last, End: last });
    if (event.key === "Enter" || event.key === " ") this.#choose(this.#chips[at - this.#from]);
    else if (event.key in steps && at >= this.#from) this.#walk(Math.max(0, Math.min(last, at + steps[event.key])));
    else return;
    event.preventDefault();
  }

  /** Focuses a token, which may lie beyond those that are shown. @param {number} token */
  #walk(token) {
    if (!this.#chips[token - this.#from]) this.#shift(token);
    this.#chips[token - this.#from].focus();
  }

  /** Colours each token by its share. @param {Float64Array} heat @param {string} kind */
  warm(heat, kind) {
    this.#heat = heat;
    this.root.dataset.kind = kind;
    this.#color();
  }

  #color() {
    const most = this.#heat.reduce((one, other) => Math.max(one, other), 1e-12);
    this.#chips.forEach((chip, index) => {
      const share = this.#heat[this.#from + index] ?? 0;
      chip.style.setProperty("--heat", Math.sqrt(share / most).toFixed(3));
    });
  }

  /** Frames tokens [from, to). @param {number} from @param {number} to */
  frame(from, to) {
    this.#chips.forEach((chip, index) => {
      const token = this.#from + index;
      chip.classList.toggle("framed", from <= token && token < to);
    });
  }
}
