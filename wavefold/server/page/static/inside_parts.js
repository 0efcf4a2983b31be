/** Parts of Look inside: the likeliest tokens, a layer's numbers, experts, MTP's guess, the cache. */

import { h } from "./dom.js";
import { KINDS } from "./heat_row.js";
import { blockFills, entryMarks, percent, shares, textOf, visible, windowMarks } from "./inside_numbers.js";

/** @typedef {import("./inside_numbers.js").Inside} Inside */
/** @typedef {import("./inside_numbers.js").Layer} Layer */

const SHOWN = 12;
const MOST_BLOCKS = 600;

/** @param {string} title @param {string} id @param {...(Node | null)} content */
export const part = (title, id, ...content) => h("section", { class: "part", "aria-labelledby": id }, h("h3", { id }, title), ...content);

/** @param {number} share @param {string} kind its colour */
const bar = (share, kind) => h("span", { class: `bar ${kind}`, "aria-hidden": "true" }, h("i", { style: { "--share": String(Math.min(1, share)) } }));

/** @param {string} text */
const token = (text) => h("code", { class: "token-text" }, visible(text));

/** @param {Inside} inside */
export function likeliest(inside) {
  const written = inside.tokens[inside.position + 1]?.id;
  const rows = inside.top.map(({ id, text, probability }) =>
    h("tr", { class: id === written ? "written" : "" }, h("td", {}, token(text), id === written ? h("span", { class: "tag" }, "written") : null),
      h("td", { class: "wide" }, bar(probability, "accent")), h("td", { class: "number" }, percent(probability))));
  const listed = inside.top.some(({ id }) => id === written);
  const other = !listed && inside.next ? h("p", { class: "note" }, "Written was ", token(inside.next.text), ` with ${percent(inside.next.probability)}, which is not among the ten.`) : null;
  return part("The ten likeliest tokens", "inside-top", numbers(["Token", "", "Probability"], rows), other);
}

/** @param {string[]} heads @param {HTMLElement[]} rows */
function numbers(heads, rows) {
  const head = heads.map((text) => h("th", { scope: "col", class: /^(Probability|Mass|Score|Weight)$/.test(text) ? "number" : "" }, text || h("span", { class: "visually-hidden" }, "As a bar")));
  return h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

/** What one layer did, in numbers. @param {Inside} inside @param {Layer} layer @param {number} length */
export function layerDetails(inside, layer, length) {
  const share = shares(layer);
  const kind = layer.kind;
  const parts = /** @type {[string, number, string][]} */ ([["window", share.window, "window"], ...(layer.entries ? [["entries", share.entries, kind]] : []), ["sink", share.sink, "sink"]]);
  const shareBar = h("div", { class: "share-bar", "aria-hidden": "true" }, parts.map(([, value, name]) => h("i", { class: name, style: { "--share": String(value) } })));
  const words = h("p", { class: "share-words" }, parts.map(([label, value, name]) => h("span", { class: "key" }, h("i", { class: name, "aria-hidden": "true" }), `${label} `, h("b", {}, percent(value)))));
  return part(`Layer ${layer.layer}: ${KINDS[kind]}`, "inside-layer", h("p", { class: "note" }, layerWords(layer, length)), shareBar, words, entryTable(inside, layer), windowTable(inside, layer), expertTable(layer));
}

/** @param {Layer} layer @param {number} length */
function layerWords(layer, length) {
  const seen = Math.min(length, layer.window.mass.length);
  if (!layer.entries) return `This layer attends to the last ${seen} tokens alone.`;
  const { ratio, count, chosen, mass } = layer.entries;
  const much = `An entry stands for ${ratio} tokens; ${count.toLocaleString("en")} of them were complete.`;
  if (!count) return `${much} The last ${seen} tokens are attended to as they are.`;
  return chosen ? `${much} The indexer chose ${mass.length.toLocaleString("en")}.` : `${much} All of them are attended to.`;
}

/** @param {Inside} inside @param {Layer} layer */
function entryTable(inside, layer) {
  const marks = entryMarks(layer).sort((one, other) => one.rank - other.rank);
  if (!marks.length) return null;
  const scored = marks[0].score !== null;
  const row = (/** @type {import("./inside_numbers.js").Mark} */ mark) => h("tr", {}, h("td", { class: "number" }, String(mark.number)), h("td", {}, token(textOf(inside.tokens, mark.from, mark.to))),
    scored ? h("td", { class: "number" }, /** @type {number} */ (mark.score).toFixed(3)) : null, h("td", { class: "number" }, percent(mark.mass)));
  const table = numbers(["Entry", "Text", ...(scored ? ["Score"] : []), "Mass"], marks.slice(0, SHOWN).map(row));
  const caption = scored ? "Entries as the indexer chose them, best score first" : "Entries by their mass";
  return h("div", { class: "entry-table" }, h("h4", {}, caption), table, more(table, marks.slice(SHOWN), row));
}

/** @template T @param {HTMLElement} table @param {T[]} rest @param {(one: T) => HTMLElement} row */
function more(table, rest, row) {
  if (!rest.length) return null;
  const button = h("button", { type: "button", class: "button small", on: { click: () => {
    const body = /** @type {HTMLElement} */ (table.querySelector("tbody"));
    body.append(...rest.splice(0, 100).map(row));
    if (rest.length) button.textContent = `${rest.length} more`;
    else button.remove();
  } } }, `${rest.length} more`);
  return button;
}

/** @param {Inside} inside @param {Layer} layer */
function windowTable(inside, layer) {
  const marks = windowMarks(layer).sort((one, other) => other.mass - one.mass);
  const row = (/** @type {import("./inside_numbers.js").Mark} */ mark) => h("tr", {}, h("td", { class: "number" }, String(mark.number)), h("td", {}, token(textOf(inside.tokens, mark.from, mark.to))), h("td", { class: "number" }, percent(mark.mass)));
  const table = numbers(["Place", "Token", "Mass"], marks.slice(0, 8).map(row));
  return h("div", { class: "window-table" }, h("h4", {}, "Tokens of the window by their mass"), table, more(table, marks.slice(8), row));
}

/** @param {Layer} layer */
function expertTable(layer) {
  if (!layer.experts.length) return null;
  const most = Math.max(...layer.experts.map(({ weight }) => weight));
  const rows = layer.experts.map(({ expert, weight }) => h("tr", {}, h("td", { class: "number" }, String(expert)), h("td", { class: "wide" }, bar(weight / most, "accent")), h("td", { class: "number" }, weight.toFixed(3))));
  return h("div", { class: "expert-table" }, h("h4", {}, layer.hashed ? "Experts, by a table of token ids" : "Experts that the router chose"), numbers(["Expert", "", "Weight"], rows));
}

/** Experts of all layers. @param {Layer[]} layers */
export function experts(layers) {
  const rows = layers.filter((layer) => layer.experts.length).map((layer) => {
    const most = Math.max(...layer.experts.map(({ weight }) => weight));
    const chips = layer.experts.map(({ expert, weight }) => h("span", { class: "expert", style: { "--share": String(weight / most) }, title: `weight ${weight.toFixed(3)}` }, String(expert)));
    return h("tr", {}, h("th", { scope: "row" }, String(layer.layer)), h("td", { class: "chips" }, chips), h("td", { class: "note" }, layer.hashed ? "by token id" : ""));
  });
  if (!rows.length) return null;
  const table = h("table", { class: "experts" }, h("thead", { class: "visually-hidden" }, h("tr", {}, h("th", { scope: "col" }, "Layer"), h("th", { scope: "col" }, "Experts"), h("th", { scope: "col" }, "How they are chosen"))), h("tbody", {}, rows));
  return part("Experts by layer", "inside-experts", h("p", { class: "note" }, "The numbers of the routed experts; a fuller bar is a larger weight."), table);
}

/** @param {Inside} inside */
export function guess({ mtp }) {
  if (!mtp) return part("MTP", "inside-mtp", h("p", { class: "note" }, "There is no guess: this model has no MTP module that is used."));
  const verdict = mtp.accepted === null ? ["open", "the text ends before"] : mtp.accepted ? ["yes", "accepted: the text goes on so"] : ["no", "rejected: the text goes on otherwise"];
  return part("MTP", "inside-mtp", h("p", { class: "guess" }, "For the token after the next, the MTP module guessed ", token(mtp.text ?? `#${mtp.guess}`), ` with ${percent(mtp.probability)} `, h("span", { class: `verdict ${verdict[0]}` }, verdict[1])));
}

/** @param {Inside} inside @param {number} length */
export function cacheBlocks({ cache }, length) {
  if (!cache) return null;
  const fills = blockFills(length, cache);
  const squares = fills.slice(0, MOST_BLOCKS).map(({ filled, hit }) => h("i", { style: { "--filled": String(filled), "--hit": String(hit) } }));
  const found = cache.prefix_hit_tokens ? `The first ${cache.prefix_hit_tokens.toLocaleString("en")} tokens were found in the prefix cache.` : "Nothing of it was found in the prefix cache.";
  const words = `${length.toLocaleString("en")} tokens lie in ${cache.blocks.toLocaleString("en")} ${cache.blocks === 1 ? "block" : "blocks"} of 128. ${found}`;
  const keys = h("p", { class: "share-words", "aria-hidden": "true" }, h("span", { class: "key" }, h("i", { class: "hit" }), "found"), h("span", { class: "key" }, h("i", { class: "filled" }), "read"));
  return part("Cache", "inside-cache", h("p", { class: "note" }, words), h("div", { class: "blocks", "aria-hidden": "true" }, squares), keys);
}
