/**
 * Markdown of answers as a tree of blocks; what shows it is `markdown_view.js`.
 *
 * Paragraphs, headings, fenced code, lists, quotes, rules and tables, as CommonMark and GitHub write them. HTML stays
 * text, as do underlined headings; a quote ends where a line has no sign. Code without a fence is code in outer blocks
 * alone (`bare_code.js`). Each outer block carries its source, so that a view keeps what has not changed while an answer
 * grows.
 */

import { bareCode, breaksProse } from "./bare_code.js";
import { inlineOf } from "./markdown_inline.js";

/** @typedef {import("./markdown_inline.js").Inline} Inline */
/**
 * @typedef {{type: "paragraph", inline: Inline[]} | {type: "heading", level: number, inline: Inline[]}
 *   | {type: "code", language: string, text: string, open: boolean} | {type: "rule"}
 *   | {type: "quote", blocks: Block[]} | {type: "list", ordered: boolean, start: number, items: Block[][]}
 *   | {type: "table", align: string[], head: Inline[][], rows: Inline[][][]}} Block
 */

const DEEPEST = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])( +|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** @param {string} source @param {boolean} [growing] its last line is still being written @returns {{block: Block, source: string}[]} */
export function outerBlocks(source, growing = false) {
  const lines = source.replace(/\r\n?/g, "\n").split("\n");
  return read(lines, 0, growing).map(({ block, from, to }) => ({ block, source: lines.slice(from, to).join("\n") }));
}

/** @param {string[]} lines @param {number} depth */
const blocksOf = (lines, depth) => read(lines, depth, false).map((one) => one.block);

/** @typedef {{block: Block, to: number} | null} Found */

/** @param {string[]} lines @param {number} depth @param {boolean} growing */
function read(lines, depth, growing) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const { block, to } = blockAt(lines, at, depth, growing);
    found.push({ block, from: at, to });
    at = to;
  }
  return found;
}

/** @param {string[]} lines @param {number} at @param {number} depth @param {boolean} growing @returns {{block: Block, to: number}} */
function blockAt(lines, at, depth, growing) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence[1], fence[2]);
  const code = depth === 0 ? bareCode(lines, at, growing) : null;
  if (code) return code;
  const heading = HEADING.exec(line);
  if (heading) return { block: { type: "heading", level: heading[1].length, inline: inlineOf(heading[2]) }, to: at + 1 };
  if (RULE.test(line)) return { block: { type: "rule" }, to: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return quoted(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return listed(lines, at, depth);
  return tabled(lines, at) ?? paragraph(lines, at, (to) => depth === 0 && breaksProse(lines, to, growing));
}

/** @param {string[]} lines @param {number} at @param {string} fence @param {string} language @returns {{block: Block, to: number}} */
function fenced(lines, at, fence, language) {
  const indent = lines[at].length - lines[at].trimStart().length;
  const body = [];
  let to = at + 1;
  let open = true;
  for (; to < lines.length; to++) {
    const trimmed = lines[to].trim();
    if (trimmed.startsWith(fence) && trimmed === fence[0].repeat(trimmed.length)) {
      open = false;
      to += 1;
      break;
    }
    body.push(lines[to].slice(Math.min(indent, lines[to].length - lines[to].trimStart().length)));
  }
  return { block: { type: "code", language, text: body.join("\n"), open }, to };
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {{block: Block, to: number}} */
function quoted(lines, at, depth) {
  const inner = [];
  let to = at;
  while (to < lines.length && QUOTE.test(lines[to])) inner.push(lines[to++].replace(QUOTE, ""));
  return { block: { type: "quote", blocks: blocksOf(inner, depth + 1) }, to };
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {{block: Block, to: number}} */
function listed(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const ordered = first[3] !== undefined;
  const sign = first[2].at(-1);
  /** @type {Block[][]} */
  const items = [];
  let to = at;
  while (to < lines.length) {
    const mark = ITEM.exec(lines[to]);
    if (!mark || mark[2].at(-1) !== sign || RULE.test(lines[to])) break;
    const width = mark[4].length > 4 || mark[4] === "" ? mark[1].length + mark[2].length + 1 : mark[0].length;
    const inner = [lines[to].slice(Math.min(width, lines[to].length))];
    to += 1;
    while (to < lines.length && belongs(lines, to, width)) inner.push(lines[to++].replace(new RegExp(`^ {0,${width}}`), ""));
    items.push(blocksOf(inner, depth + 1));
    const blank = to;
    while (to < lines.length && !lines[to].trim()) to += 1;
    if (to < lines.length && !ITEM.test(lines[to])) to = blank;
    if (to === blank && to < lines.length && !ITEM.test(lines[to])) break;
  }
  return { block: { type: "list", ordered, start: ordered ? Number(first[3]) : 1, items }, to };
}

/** True if a line goes on with an item whose text begins at column `width`. @param {string[]} lines @param {number} at @param {number} width */
function belongs(lines, at, width) {
  const line = lines[at];
  const indent = line.length - line.trimStart().length;
  if (!line.trim()) {
    const next = lines.slice(at, at + 3).find((one) => one.trim());
    return next !== undefined && next.length - next.trimStart().length >= width;
  }
  if (indent >= width) return true;
  return Boolean(lines[at - 1].trim()) && !begins(line);
}

/** True if a line begins another block than a paragraph. @param {string} line */
const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));

/** @param {string[]} lines @param {number} at @returns {Found} */
function tabled(lines, at) {
  const divider = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !divider.includes("-") || !DIVIDER.test(divider)) return null;
  const head = cells(lines[at]);
  const align = cells(divider).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  if (head.length !== align.length) return null;
  const rows = [];
  let to = at + 2;
  while (to < lines.length && lines[to].trim() && lines[to].includes("|")) {
    const row = cells(lines[to++]);
    rows.push(head.map((_, column) => inlineOf(row[column] ?? "")));
  }
  return { block: { type: "table", align, head: head.map(inlineOf), rows }, to };
}

/** @param {string} line */
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** @param {string[]} lines @param {number} at @param {(to: number) => boolean} isCode @returns {{block: Block, to: number}} */
function paragraph(lines, at, isCode) {
  let to = at + 1;
  while (to < lines.length && lines[to].trim() && !begins(lines[to]) && !isCode(to) && !tabled(lines, to)) to += 1;
  const text = lines.slice(at, to).map((line) => line.trimStart()).join("\n").trimEnd();
  return { block: { type: "paragraph", inline: inlineOf(text) }, to };
}
