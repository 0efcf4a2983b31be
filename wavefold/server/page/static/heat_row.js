/**
 * A layer's attention as a strip over the text: entries above, the window below, darker for more mass.
 *
 * One element with the role of a slider stands for all marks of a layer, whose number may be large: arrow keys step
 * through them, and each is told in words.
 */

import { h } from "./dom.js";
import { markWords, stops } from "./inside_numbers.js";

/** @typedef {import("./inside_numbers.js").Layer} Layer */
/** @typedef {import("./inside_numbers.js").Mark} Mark */
/** @typedef {import("./inside_numbers.js").Token} Token */

export const KINDS = { window: "Window", csa: "CSA", hca: "HCA" };
const HEIGHT = 26;
const ENTRY_LANE = 17;
const WINDOW_TOP = 19;

export class HeatRow {
  /** @type {Mark[]} */
  #marks;
  #at = 0;
  #lit = false;

  /**
   * @param {Layer} layer @param {Token[]} tokens @param {number} length tokens that were read
   * @param {{pointed: (row: HeatRow, mark: Mark | null, words: string) => void, moved: (row: HeatRow, by: number) => void, chosen: (row: HeatRow) => void}} acts
   */
  constructor(layer, tokens, length, acts) {
    this.layer = layer;
    this.tokens = tokens;
    this.length = length;
    this.acts = acts;
    this.#marks = stops(layer);
    this.#at = this.#heaviest();
    this.canvas = h("canvas", { height: String(HEIGHT), "aria-hidden": "true" });
    this.root = h("div", { class: "strip", role: "slider", tabindex: "-1", "aria-label": `Layer ${layer.layer}, ${KINDS[layer.kind]}`,
      "aria-valuemin": "0", "aria-valuemax": String(Math.max(0, this.#marks.length - 1)) }, this.canvas);
    this.#listen();
    this.#tell();
  }

  #heaviest() {
    return this.#marks.reduce((best, mark, index) => (mark.mass > this.#marks[best].mass ? index : best), 0);
  }

  #listen() {
    const point = (/** @type {PointerEvent} */ event) => this.#point(event);
    this.root.addEventListener("pointermove", point);
    this.root.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      this.acts.chosen(this);
      point(event);
    });
    this.root.addEventListener("pointerleave", () => this.#light(document.activeElement === this.root));
    this.root.addEventListener("focus", () => {
      this.acts.chosen(this);
      this.#light(true);
    });
    this.root.addEventListener("blur", () => this.#light(false));
    this.root.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const tenth = Math.max(1, Math.round(this.#marks.length / 10));
    const last = this.#marks.length - 1;
    const steps = /** @type {Record<string, number>} */ ({ ArrowRight: 1, ArrowLeft: -1, PageUp: tenth, PageDown: -tenth, Home: -last, End: last });
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") this.acts.moved(this, event.key === "ArrowDown" ? 1 : -1);
    else if (event.key in steps) {
      this.#at = Math.max(0, Math.min(last, this.#at + steps[event.key]));
      this.#light(true);
    } else return;
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const token = Math.min(this.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * this.length)));
    const part = event.clientY - box.top > ENTRY_LANE + 1 || !this.layer.entries ? "window" : "entry";
    const index = this.#marks.findIndex((mark) => mark.part === part && mark.from <= token && token < mark.to);
    if (index >= 0) {
      this.#at = index;
      this.#light(true);
      return;
    }
    this.#light(false);
    this.acts.pointed(this, null, part === "window" ? "outside the window" : this.#unseen(token));
  }

  /** @param {number} token */
  #unseen(token) {
    const entries = /** @type {import("./inside_numbers.js").Entries} */ (this.layer.entries);
    const entry = Math.floor(token / entries.ratio);
    return entry < entries.count ? `entry ${entry} was not chosen` : `entry ${entry} is not complete yet`;
  }

  /** @param {boolean} lit */
  #light(lit) {
    this.#lit = lit && this.#marks.length > 0;
    this.#tell();
    this.draw();
    const mark = this.#lit ? this.#marks[this.#at] : null;
    this.acts.pointed(this, mark, "");
  }

  #tell() {
    const mark = this.#marks[this.#at];
    this.root.setAttribute("aria-valuenow", String(this.#at));
    if (!mark) {
      this.root.setAttribute("aria-valuetext", "nothing attended to");
      return;
    }
    const { where, mass, text } = markWords(this.layer, mark, this.tokens);
    this.root.setAttribute("aria-valuetext", `${where}: ${mass}. ${text}`);
  }

  /** Draws the strip at its present width, in the colours of the present theme. */
  draw() {
    const { canvas } = this;
    const width = this.root.clientWidth;
    const context = canvas.getContext("2d");
    if (!width || !context) return;
    const scale = Math.max(1, window.devicePixelRatio || 1);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(HEIGHT * scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(this.root);
    const color = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const x = (/** @type {number} */ token) => (Math.min(token, this.length) / this.length) * width;
    if (this.layer.entries) {
      context.fillStyle = color("--track");
      context.fillRect(0, 0, width, ENTRY_LANE);
    }
    context.fillStyle = color("--track");
    context.fillRect(x(this.layer.window.first), WINDOW_TOP, width - x(this.layer.window.first), HEIGHT - WINDOW_TOP);
    const heaviest = { entry: 1e-12, window: 1e-12 };
    for (const mark of this.#marks) heaviest[mark.part] = Math.max(heaviest[mark.part], mark.mass);
    const gap = width / this.length > 5 ? 1 : 0;
    for (const mark of this.#marks) {
      const entry = mark.part === "entry";
      context.fillStyle = color(entry ? `--${this.layer.kind}` : "--window");
      context.globalAlpha = 0.1 + 0.9 * Math.sqrt(mark.mass / heaviest[mark.part]);
      const wide = Math.max(1.2, x(mark.to) - x(mark.from) - gap);
      context.fillRect(x(mark.from), entry ? 0 : WINDOW_TOP, wide, entry ? ENTRY_LANE : HEIGHT - WINDOW_TOP);
    }
    context.globalAlpha = 1;
    if (this.#lit) this.#outline(context, x, color("--ink"));
  }

  /** @param {CanvasRenderingContext2D} context @param {(token: number) => number} x @param {string} ink */
  #outline(context, x, ink) {
    const mark = this.#marks[this.#at];
    const entry = mark.part === "entry";
    context.strokeStyle = ink;
    context.lineWidth = 2;
    const left = Math.min(x(mark.from), this.root.clientWidth - 4);
    context.strokeRect(left + 1, entry ? 1 : WINDOW_TOP - 1, Math.max(2, x(mark.to) - left - 2), (entry ? ENTRY_LANE : HEIGHT - WINDOW_TOP) - 1);
  }
}
