/**
 * Look inside: for one token of a text, what the model saw when it made it.
 *
 *     text as tokens  ->  choose one  ->  POST /v1/wavefold/inside  ->  strips, numbers, experts, guess, cache
 */

import { problemWords } from "./api.js";
import { h, iconButton } from "./dom.js";
import { HeatRow, KINDS } from "./heat_row.js";
import { firstBehind, heatOfTokens, markWords, percent, shares, visible } from "./inside_numbers.js";
import { cacheBlocks, experts, guess, layerDetails, likeliest, part } from "./inside_parts.js";
import { MachineView } from "./machine_view.js";
import { Ribbon } from "./ribbon.js";

/** @typedef {import("./inside_numbers.js").Inside} Inside */
/**
 * @typedef {object} Subject a text, as the server is asked about it
 * @property {string} model that reads it; "": the server's only one
 * @property {string} writer the model that wrote it, or ""
 * @property {Record<string, unknown>} body
 * @property {number | null} position that is shown first; null: the last
 * @property {number} [written] characters before the first that the model wrote. Its tokens may be cut otherwise than
 *   the prompt's were, so that the first position is looked for
 */

export class InsideView {
  /** @type {Subject | null} */
  #subject = null;
  /** @type {Inside | null} */
  #inside = null;
  /** @type {HeatRow[]} */
  #rows = [];
  #layer = -1;
  /** @type {AbortController | null} */
  #asking = null;

  /** @param {HTMLElement} root @param {import("./api.js").Api} api @param {() => void} onClose */
  constructor(root, api, onClose) {
    this.root = root;
    this.api = api;
    this.machine = new MachineView(api, () => this.#subject?.model ?? "");
    this.ribbon = new Ribbon((token) => this.#ask(token - 1, true));
    this.title = h("h2", { id: "inside-title", tabindex: "-1" }, "Look inside");
    this.state = h("p", { class: "note", role: "status" });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.made = h("div", { class: "made" });
    this.readout = h("div", { class: "readout" });
    this.strips = h("tbody");
    this.details = h("div", { class: "details" });
    this.rest = h("div", { class: "rest" });
    this.content = h("div", { class: "inside-content" }, this.made, this.ribbon.root, this.ribbon.note, this.#heat(), this.details, this.rest);
    root.append(h("header", {}, this.title, h("span", { class: "grow" }), iconButton("close", "Close Look inside", onClose, { bare: true })),
      h("div", { class: "inside-scroll", tabindex: "0", role: "group", "aria-label": "What the model saw" }, this.problem, this.state, this.content, this.machine.root));
    this.content.hidden = true;
    new ResizeObserver(() => this.#draw()).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    new MutationObserver(() => this.#draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  #heat() {
    const head = ["Layer", "Kind", "Attention over the text", "Window", "Entries", "Sink"].map((text, index) => h("th", { scope: "col", class: index > 2 ? "number" : "" }, text));
    const legend = h("p", { class: "share-words legend" }, ["window", "csa", "hca"].map((kind) => h("span", { class: "key" }, h("i", { class: kind, "aria-hidden": "true" }), kind === "window" ? "window, token by token" : `${KINDS[/** @type {"csa"} */ (kind)]} entries`)));
    return part("Where each layer looked", "inside-heat", legend, h("table", { class: "heat" }, h("thead", {}, h("tr", {}, head)), this.strips), this.readout);
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** @param {Subject} subject @param {boolean} [withFocus] */
  open(subject, withFocus = true) {
    this.#subject = subject;
    this.#inside = null;
    this.content.hidden = true;
    this.root.hidden = false;
    this.machine.start();
    if (withFocus) this.title.focus();
    this.#ask(subject.position, false);
  }

  close() {
    this.root.hidden = true;
    this.#asking?.abort();
    this.machine.stop();
  }

  /** @param {number | null} position null: the last token @param {boolean} fromRibbon @returns {Promise<void>} */
  async #ask(position, fromRibbon) {
    if (!this.#subject) return;
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    this.content.setAttribute("aria-busy", "true");
    this.state.textContent = "The model reads the text again and is watched…";
    this.problem.hidden = true;
    try {
      const { model, body: text } = this.#subject;
      const body = { ...(model ? { model } : {}), ...text, ...(position === null ? {} : { position }) };
      const inside = await this.api.post("v1/wavefold/inside", body, asking.signal);
      if (asking.signal.aborted) return;
      const first = this.#firstWritten(inside);
      if (first !== null && first !== inside.position) return this.#ask(first, false);
      this.#show(inside, fromRibbon);
    } catch (error) {
      if (asking.signal.aborted) return;
      this.state.textContent = "";
      this.problem.hidden = false;
      this.problem.textContent = problemWords(error);
    }
    this.content.removeAttribute("aria-busy");
  }

  /** Where the first token was made that the model wrote, told once; null: the position was right. @param {Inside} inside */
  #firstWritten(inside) {
    const characters = this.#subject?.written;
    if (!this.#subject || characters === undefined) return null;
    this.#subject = { ...this.#subject, written: undefined };
    return Math.min(firstBehind(inside.tokens, characters), inside.tokens.length - 1) - 1;
  }

  /** @param {Inside} inside @param {boolean} fromRibbon */
  #show(inside, fromRibbon) {
    this.#inside = inside;
    this.content.hidden = false;
    const length = inside.position + 1;
    const next = inside.tokens[length];
    const probability = inside.next?.probability ?? inside.top.find(({ id }) => id === next?.id)?.probability;
    const told = next ? `“${visible(next.text)}”` : "the next token";
    this.made.replaceChildren(h("p", { class: "made-token" }, h("code", {}, visible(next ? next.text : (inside.top[0]?.text ?? "")))),
      h("p", {}, next ? "was written" : "would come next", probability === undefined ? "" : `: probability ${percent(probability)}`, h("br"),
        h("span", { class: "note" }, `token ${length}, made at position ${inside.position} after `, h("code", { class: "token-text" }, visible(inside.token)))));
    this.ribbon.show(inside.tokens, length, fromRibbon);
    this.#rows = inside.layers.map((layer) => new HeatRow(layer, inside.tokens, length, this.#heatActs()));
    this.strips.replaceChildren(...this.#rows.map((row) => this.#stripRow(row)));
    this.rest.replaceChildren(...[likeliest(inside), guess(inside), experts(inside.layers), cacheBlocks(inside, length)].filter((one) => one !== null));
    if (this.#layer < 0) this.#layer = Math.max(0, inside.layers.findIndex((layer) => layer.entries?.mass.length));
    this.#select(Math.min(this.#layer, this.#rows.length - 1));
    this.#draw();
    const { model, writer } = /** @type {Subject} */ (this.#subject);
    this.state.textContent = writer && model !== writer ? `Shown: how ${model} reads a text that ${writer} wrote.` : `Shown: how ${told} was made.`;
  }

  /** @param {HeatRow} row */
  #stripRow(row) {
    const { layer } = row;
    const share = shares(layer);
    return h("tr", { "data-layer": String(layer.layer) }, h("th", { scope: "row" }, String(layer.layer)), h("td", { class: `kind ${layer.kind}` }, KINDS[layer.kind]),
      h("td", { class: "wide" }, row.root), h("td", { class: "number" }, percent(share.window)), h("td", { class: "number" }, layer.entries ? percent(share.entries) : "–"), h("td", { class: "number" }, percent(share.sink)));
  }

  #heatActs() {
    return {
      chosen: (/** @type {HeatRow} */ row) => this.#select(this.#rows.indexOf(row)),
      moved: (/** @type {HeatRow} */ row, /** @type {number} */ by) => {
        const at = Math.max(0, Math.min(this.#rows.length - 1, this.#rows.indexOf(row) + by));
        this.#select(at);
        this.#rows[at].root.focus();
      },
      pointed: (/** @type {HeatRow} */ row, /** @type {import("./inside_numbers.js").Mark | null} */ mark, /** @type {string} */ words) => this.#read(row, mark, words),
    };
  }

  /** @param {HeatRow} row @param {import("./inside_numbers.js").Mark | null} mark @param {string} words */
  #read(row, mark, words) {
    const { layer } = row;
    const lead = `Layer ${layer.layer}, ${KINDS[layer.kind]}`;
    this.ribbon.frame(mark?.from ?? 0, mark?.to ?? 0);
    if (!mark) {
      this.readout.replaceChildren(h("p", { class: "note" }, words ? `${lead}: ${words}` : "Point at a strip, or walk along it with the arrow keys."));
      return;
    }
    const { where, mass, text } = markWords(layer, mark, row.tokens);
    this.readout.replaceChildren(h("p", {}, `${lead}: ${where} `, h("b", {}, mass)), h("code", { class: "entry-text" }, visible(text)));
  }

  /** @param {number} at */
  #select(at) {
    if (!this.#inside || at < 0) return;
    const changed = at !== this.#layer || !this.details.firstChild || this.details.dataset.position !== String(this.#inside.position);
    this.#layer = at;
    this.#rows.forEach((row, index) => {
      row.root.tabIndex = index === at ? 0 : -1;
      row.root.closest("tr")?.classList.toggle("selected", index === at);
    });
    const { layer } = this.#rows[at];
    const length = this.#inside.position + 1;
    this.ribbon.warm(heatOfTokens(layer, length), layer.kind);
    if (!changed) return;
    this.details.dataset.position = String(this.#inside.position);
    this.details.replaceChildren(layerDetails(this.#inside, layer, length));
    this.#read(this.#rows[at], null, "");
  }

  #draw() {
    for (const row of this.#rows) row.draw();
  }
}
