/** Blocks of Markdown as elements. Whatever a model writes reaches the page as text nodes and a few known elements. */

import { h, iconButton } from "./dom.js";
import { outerBlocks } from "./markdown.js";

/** @typedef {import("./markdown.js").Block} Block */
/** @typedef {import("./markdown_inline.js").Inline} Inline */

const TAGS = { strong: "strong", emphasis: "em", struck: "s" };

/** @param {Inline[]} inline @returns {(Node | string)[]} */
function inlineNodes(inline) {
  return inline.map((one) => {
    if (one.type === "text") return one.text;
    if (one.type === "code") return h("code", {}, one.text);
    if (one.type === "break") return h("br");
    if (one.type === "link") {
      const safety = { target: "_blank", rel: "noopener noreferrer nofollow" };
      return h("a", { href: one.href, ...safety }, inlineNodes(one.inline));
    }
    return h(TAGS[one.type], {}, inlineNodes(one.inline));
  });
}

/** @param {Block} block @returns {HTMLElement} */
function blockElement(block) {
  switch (block.type) {
    case "paragraph":
      return h("p", {}, inlineNodes(block.inline));
    case "heading":
      return h(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, inlineNodes(block.inline));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, block.blocks.map(blockElement));
    case "list":
      return h(block.ordered ? "ol" : "ul", block.ordered && block.start !== 1 ? { start: block.start } : {}, block.items.map(itemElement));
    case "table":
      return tableElement(block);
    case "code":
      return codeElement(block.language, block.text);
  }
}

/** An item's only paragraph, or its first before a list, stands without space around it. @param {Block[]} blocks */
function itemElement(blocks) {
  return h("li", {}, blocks.map((block) => (block.type === "paragraph" && blocks.length <= 2 ? h("span", {}, inlineNodes(block.inline)) : blockElement(block))));
}

/** @param {Extract<Block, {type: "table"}>} table */
function tableElement({ align, head, rows }) {
  /** @param {string} tag @param {Inline[][]} cells */
  const row = (tag, cells) => h("tr", {}, cells.map((cell, column) => h(tag, { class: `align-${align[column]}` }, inlineNodes(cell))));
  const table = h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, rows.map((cells) => row("td", cells))));
  return h("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}

/** @param {string} language @param {string} text */
function codeElement(language, text) {
  const copy = iconButton("copy", "Copy", () => copied(copy, text), { class: "text-button copy-code" });
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, language || "text"), copy),
    h("pre", { tabindex: "0", role: "region", "aria-label": language ? `Code, ${language}` : "Code" }, h("code", {}, text)));
}

/** Puts text on the clipboard and says so on the button. @param {HTMLElement} button @param {string} text */
export async function copied(button, text) {
  const label = button.querySelector("span");
  const before = "Copy";
  let outcome = "Copied";
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    outcome = copyBySelection(text) ? "Copied" : "Not allowed";
  }
  if (label) {
    label.textContent = outcome;
    setTimeout(() => (label.textContent = before), 1600);
  }
}

/** The clipboard's interface needs a secure context; this older way does not. @param {string} text */
function copyBySelection(text) {
  const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1", value: text });
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Shows growing Markdown in an element; blocks whose source stays keep their elements. */
export class MarkdownView {
  /** Kinds and sources of the blocks that are shown. @type {string[]} */
  #shown = [];

  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
  }

  /** @param {string} text @param {boolean} growing more of it is to come */
  show(text, growing) {
    const blocks = outerBlocks(text, growing);
    const wanted = blocks.map(({ block, source }) => `${block.type} ${source}`);
    let same = 0;
    while (same < wanted.length && same < this.#shown.length && wanted[same] === this.#shown[same]) same += 1;
    while (this.root.children.length > same) /** @type {Element} */ (this.root.lastElementChild).remove();
    this.root.append(...blocks.slice(same).map(({ block }) => blockElement(block)));
    this.#shown = wanted;
  }
}
