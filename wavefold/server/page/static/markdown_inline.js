/**
 * Inline Markdown as a tree: code, emphasis, strong, struck text, links, line breaks. HTML stays text.
 *
 * Delimiters wait on a stack until their partner comes, as in CommonMark's appendix; the work grows with the length of
 * the text, whatever it holds. Images become links: the page loads nothing from elsewhere.
 */

/**
 * @typedef {{type: "text", text: string} | {type: "code", text: string} | {type: "break"}
 *   | {type: "strong" | "emphasis" | "struck", inline: Inline[]} | {type: "link", href: string, inline: Inline[]}} Inline
 */
/** @typedef {{mark: string, count: number, at: number, opens: boolean}} Waiting a delimiter; its text is nodes[at] */

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const OF_PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/u;
const OF_WORD = /[\p{L}\p{N}_]/u;
/** A name of Python's own, as `__init__`: text, though CommonMark would make it strong. */
const SPECIAL_NAME = /^__[a-z][a-z0-9]*(?:_[a-z0-9]+)*__(?![\p{L}\p{N}_])/u;
const ADDRESS = /^https?:\/\/[^\s<>"`]+/;
const KINDS = /** @type {const} */ (["emphasis", "strong"]);

/** The address if it leads out by http, https or mailto; else "". @param {string} address */
export function safeAddress(address) {
  try {
    return ["http:", "https:", "mailto:"].includes(new URL(address).protocol) ? address : "";
  } catch {
    return "";
  }
}

class InlineReader {
  /** @type {Inline[]} */
  nodes = [];
  /** @type {Waiting[]} */
  waiting = [];
  /** Lengths of runs of backticks that have no partner ahead. @type {Set<number>} */
  lonely = new Set();
  at = 0;

  /** @param {string} source */
  constructor(source) {
    this.source = source;
  }

  /** @param {string} text */
  text(text) {
    const last = this.nodes.at(-1);
    if (last?.type === "text" && this.waiting.at(-1)?.at !== this.nodes.length - 1) last.text += text;
    else this.nodes.push({ type: "text", text });
  }

  read() {
    while (this.at < this.source.length) {
      const sign = this.source[this.at];
      if (sign === "\\") this.#escape();
      else if (sign === "`") this.#code();
      else if (sign === "*" || sign === "_" || sign === "~") this.#delimiter(sign);
      else if (sign === "[" || (sign === "!" && this.source[this.at + 1] === "[")) this.#bracket(sign);
      else if (sign === "]") this.#closeBracket();
      else if (sign === "\n") this.#lineEnd();
      else if ((sign === "h" || sign === "<") && this.#address()) continue;
      else this.#plain();
    }
    return this.nodes;
  }

  #plain() {
    const rest = /^[^\\`*_~[\]!\n<h]+/.exec(this.source.slice(this.at, this.at + 512));
    const text = rest ? rest[0] : this.source[this.at];
    this.text(text);
    this.at += text.length;
  }

  #escape() {
    const next = this.source[this.at + 1] ?? "";
    if (next === "\n") this.nodes.push({ type: "break" });
    else this.text(PUNCTUATION.test(next) ? next : "\\" + next);
    this.at += 1 + next.length;
  }

  #lineEnd() {
    const last = this.nodes.at(-1);
    const hard = last?.type === "text" && last.text.endsWith("  ");
    if (last?.type === "text") last.text = last.text.trimEnd();
    if (hard) this.nodes.push({ type: "break" });
    else this.text("\n");
    this.at += 1;
    while (this.source[this.at] === " ") this.at += 1;
  }

  #code() {
    const run = /** @type {RegExpExecArray} */ (/^`+/.exec(this.source.slice(this.at)))[0];
    const from = this.at + run.length;
    const end = this.lonely.has(run.length) ? -1 : partner(this.source, run.length, from);
    if (end < 0) {
      this.lonely.add(run.length);
      this.text(run);
      this.at = from;
      return;
    }
    const inner = this.source.slice(from, end).replaceAll("\n", " ");
    const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    this.nodes.push({ type: "code", text: padded ? inner.slice(1, -1) : inner });
    this.at = end + run.length;
  }

  /** @param {string} mark */
  #delimiter(mark) {
    const { source, at } = this;
    const before = source[at - 1] ?? " ";
    if (mark === "_" && !OF_WORD.test(before)) {
      const name = SPECIAL_NAME.exec(source.slice(at, at + 64))?.[0];
      if (name) {
        this.text(name);
        this.at += name.length;
        return;
      }
    }
    let count = 1;
    while (source[at + count] === mark) count += 1;
    this.at += count;
    const { opens, closes } = roles(mark, before, source.slice(this.at, this.at + 2), source[at - 2] ?? " ");
    const usable = (mark !== "~" || count === 2) && count <= 3;
    const left = usable && closes ? this.#close(mark, count) : count;
    if (left === 0) return;
    this.nodes.push({ type: "text", text: mark.repeat(left) });
    if (usable && opens) this.waiting.push({ mark, count: left, at: this.nodes.length - 1, opens: true });
  }

  /** Closes what waits with this mark; returns the signs that are left over. @param {string} mark @param {number} count */
  #close(mark, count) {
    while (count > 0) {
      const index = this.#opener(mark);
      if (index < 0) break;
      const opener = this.waiting[index];
      const used = mark === "~" ? 2 : Math.min(2, count, opener.count);
      const inline = this.nodes.splice(opener.at + 1);
      this.waiting.length = index;
      opener.count -= used;
      if (opener.count > 0) {
        this.nodes[opener.at] = { type: "text", text: mark.repeat(opener.count) };
        this.waiting.push(opener);
      } else this.nodes.length = opener.at;
      this.nodes.push({ type: mark === "~" ? "struck" : KINDS[used - 1], inline });
      count -= used;
    }
    return count;
  }

  /** The last delimiter with this mark above the last bracket, or -1. @param {string} mark */
  #opener(mark) {
    for (let index = this.waiting.length - 1; index >= Math.max(0, this.waiting.length - 32); index--) {
      if (this.waiting[index].mark === "[") return -1;
      if (this.waiting[index].mark === mark) return index;
    }
    return -1;
  }

  /** @param {string} sign */
  #bracket(sign) {
    const text = sign === "!" ? "![" : "[";
    this.nodes.push({ type: "text", text });
    this.waiting.push({ mark: "[", count: 1, at: this.nodes.length - 1, opens: true });
    this.at += text.length;
  }

  #closeBracket() {
    this.at += 1;
    const index = this.waiting.findLastIndex((one) => one.mark === "[");
    const target = index < 0 ? null : /^\(\s*(<[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+"[^"\n]*")?\s*\)/.exec(this.source.slice(this.at, this.at + 2048));
    const href = target ? safeAddress(target[1].replace(/^<|>$/g, "")) : "";
    if (index >= 0 && target && href) {
      const { at } = this.waiting[index];
      const inline = this.nodes.splice(at + 1);
      this.nodes.length = at;
      this.waiting.length = index;
      this.nodes.push({ type: "link", href, inline: inline.length ? inline : [{ type: "text", text: href }] });
      this.at += target[0].length;
      return;
    }
    if (index >= 0) this.waiting.splice(index, 1);
    this.text("]");
  }

  #address() {
    const angled = this.source[this.at] === "<";
    if (!angled && /[\p{L}\p{N}_]/u.test(this.source[this.at - 1] ?? "")) return false;
    const found = ADDRESS.exec(this.source.slice(this.at + (angled ? 1 : 0), this.at + 2048));
    if (!found) return false;
    let href = found[0];
    if (angled && this.source[this.at + 1 + href.length] !== ">") return false;
    if (!angled) href = href.replace(/[.,;:!?'*_~\])]+$/, "");
    if (!safeAddress(href)) return false;
    this.nodes.push({ type: "link", href, inline: [{ type: "text", text: href }] });
    this.at += href.length + (angled ? 2 : 0);
    return true;
  }
}

/**
 * Whether a run of delimiters may open and close, as CommonMark says. One of `_` does neither within a word, nor where
 * it belongs to a name of code: after the point of `self._a`, before the sign of `_call_()`, `_row_[0]` and `_a_.b`.
 *
 * @param {string} mark @param {string} before the sign before the run @param {string} ahead the two signs after it
 * @param {string} further the sign before `before`
 */
function roles(mark, before, ahead, further) {
  const after = ahead[0] ?? " ";
  const [blankBefore, blankAfter] = [/\s/.test(before), /\s/.test(after)];
  const [signBefore, signAfter] = [OF_PUNCTUATION.test(before), OF_PUNCTUATION.test(after)];
  const left = !blankAfter && (!signAfter || blankBefore || signBefore);
  const right = !blankBefore && (!signBefore || blankAfter || signAfter);
  if (mark !== "_") return { opens: left, closes: right };
  const afterPoint = before === "." && OF_WORD.test(further);
  const beforeCode = after === "(" || after === "[" || (after === "." && OF_WORD.test(ahead[1] ?? " "));
  return { opens: left && (!right || signBefore) && !afterPoint, closes: right && (!left || signAfter) && !beforeCode };
}

/** Where the next run of exactly so many backticks begins, or -1. @param {string} source @param {number} length @param {number} from */
function partner(source, length, from) {
  for (const run of source.slice(from).matchAll(/`+/g)) if (run[0].length === length) return from + run.index;
  return -1;
}

/** @param {string} source @returns {Inline[]} */
export const inlineOf = (source) => new InlineReader(source).read();
