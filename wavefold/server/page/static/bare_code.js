/**
 * Code that a model writes without a fence, found among the lines of an answer: Python's, or lines that are indented.
 *
 * A sentence may begin like code ("if it rains:", "import duties rose"). A line is code if its shape is one that prose
 * has not; two words side by side that are none of Python's are prose. What is still being written is taken for code
 * where it may become it, so that a line does not change its kind as it grows.
 */

const LONGEST = 1000;
const FAR = 40;
const INDENTED = /^(?: {4}| {0,3}\t)\s*(?!(?:[-*+]|\d{1,9}[.)])\s)\S/;
const IMPORT = /^import [A-Za-z_][\w.]*(?: as \w+)?(?:, [A-Za-z_][\w.]*(?: as \w+)?)*$/;
const FROM = /^from [\w.]+ import (?:\($|\*$|\(?\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*,?\)?$)/;
const DEFINES = /^(?:async )?def \w+\s*[([](?:.*[:,([]|.*\).*: ?\S.*)?$/;
const CLASS = /^class [A-Za-z_]\w*(?:\(.*\))?:(?: pass| \.\.\.)?$/;
const DECORATES = /^@[A-Za-z_][\w.]*(?:\(.*\)?)?$/;
const DECORATED = /^(?:@|def |class |async def |[acd]\w{0,4}$)/;
const OPENS_BODY = /^(?:(?:async )?(?:for .+ in|with) .+|(?:while|if|match) .+|try):$/;
const RETURNS = /^(?:return|raise|yield)(?: .*)?$/;
const SPEAKS = /^(?:(?:assert|await|del|global|nonlocal) .+|pass|break|continue)$/;
const GOES_ON = /^(?:(?:elif|except|case) .+:|(?:else|except|finally):|[)\]}].*)$/;
const TARGET = "[A-Za-z_][\\w.]*(?:\\[[^\\]]*\\])*";
const HINT = "(?:\\s*:\\s*[\\w.\\[\\], |\"']+)?";
const ASSIGNS = new RegExp(`^${TARGET}(?:, ?${TARGET})*${HINT}\\s*(?:[-+*/%@&|^]|//|\\*\\*|>>|<<)?=(?!=)\\s*\\S`);
const CALLS = /^[A-Za-z_][\w.]*(?:\[[^\]]*\])?\(.*[)(,[{\]]$/;
const QUOTES = /^[rbfu]{0,2}(?:"""|''')/i;
const STRING = /(["'])(?:\\.|(?!\1)[^\\])*\1/g;
const PYTHON = new Set(("and as assert async await case class def del elif else except False finally for from global "
  + "if import in is lambda match None nonlocal not or raise return True try while with yield").split(" "));
/** What has come of a line that may become the first one of code. */
const BEGUN = new RegExp("^(?:(?:async )?(?:def|class)(?: \\w*\\s*(?:[([].*)?)?|(?:import)(?: [\\w.]*)?"
  + "|from(?: [\\w.]*)?(?: i\\w*.*)?|@[A-Za-z_][\\w.]*(?:\\(.*)?)$");
/** The same below code. */
const BEGUN_BELOW = new RegExp("^(?:(?:async|await|assert|class|def|del|elif|except|for|from|global|if|import|raise"
  + "|return|while|with|yield)\\b|[@)\\]}]|[a-z_][\\w.]*(?:, ?\\w*)*(?:\\[[^\\]]*\\]?)?\\s*(?:[-+*/%(=[].*)?$"
  + "|[A-Z]\\w*(?:[.([:]| ?=)|[A-Z][A-Z0-9_]+ ?$)");
/** The same right below it, with no blank line between. */
const BEGUN_RIGHT_BELOW = /^[A-Z]\w* ?$/;

/** A line without the inside of its strings and its comment; "" if it is too long to be judged. @param {string} line */
const bare = (line) => (line.length > LONGEST ? "" : line.trimEnd().replaceAll(STRING, '""').replace(/\s+#.*$/, ""));

/** False if a text ends as a sentence does, or two words stand side by side as in prose. @param {string} text */
function isExpression(text) {
  if (/[.!?]$/.test(text) && !text.endsWith("...")) return false;
  const pairs = Array.from(text.matchAll(/\b([A-Za-z_]\w*)(?=\s+([A-Za-z_]\w*))/g));
  return pairs.every(([, first, second]) => PYTHON.has(first) || PYTHON.has(second));
}

class Lines {
  /** @param {string[]} lines @param {boolean} growing more of the answer is to come */
  constructor(lines, growing) {
    this.lines = lines;
    this.growing = growing;
  }

  /** @param {number} at */
  #isUnfinished(at) {
    return this.growing && at >= this.lines.length - 1;
  }

  /** True if a line is code whatever stands above it. @param {number} at */
  isPlain(at) {
    const line = this.lines[at];
    if (line.startsWith("#!")) return true;
    if (QUOTES.test(line)) return this.#pastQuotes(at) > 0;
    const text = bare(line);
    if (this.#isUnfinished(at) && BEGUN.test(text)) return true;
    if ([IMPORT, FROM, DEFINES, CLASS].some((pattern) => pattern.test(text))) return true;
    if (DECORATES.test(text)) return this.#isAbove(at, DECORATED);
    return OPENS_BODY.test(text) && isExpression(text) && this.#isAbove(at, /^\s/);
  }

  /** True if code begins at a line: by itself, by the code right below it, or by its indent. @param {number} at */
  begins(at) {
    const line = this.lines[at];
    if (INDENTED.test(line) || this.isPlain(at) || this.#returns(at)) return true;
    if (/^#(?!#)/.test(line)) return this.#isComment(at, false);
    return this.#isStatement(at) && at + 1 < this.lines.length && (this.isPlain(at + 1) || this.#isStatement(at + 1));
  }

  /** True if a line goes on with the code above it. @param {number} at */
  #goesOn(at) {
    const line = this.lines[at];
    if (/^\s/.test(line) || this.isPlain(at)) return true;
    if (/^#(?!#)/.test(line)) return this.#isComment(at, true);
    if (this.#isUnfinished(at) && line.length <= LONGEST) {
      if (BEGUN_BELOW.test(line) || (this.lines[at - 1].trim() && BEGUN_RIGHT_BELOW.test(line))) return true;
    }
    return this.#isStatement(at) || GOES_ON.test(bare(line));
  }

  /** @param {number} at */
  #returns(at) {
    const text = bare(this.lines[at]);
    return RETURNS.test(text) && isExpression(text);
  }

  /** True for a statement of one line. @param {number} at */
  #isStatement(at) {
    const text = bare(this.lines[at]);
    return [ASSIGNS, CALLS, SPEAKS, RETURNS].some((pattern) => pattern.test(text)) && isExpression(text);
  }

  /**
   * True if a line, or one of those like it that follow, stands right above code; else it is a heading.
   *
   * @param {number} at @param {boolean} below code is above it
   */
  #isComment(at, below) {
    const end = Math.min(this.lines.length, at + FAR);
    let to = at;
    while (to < end && this.lines[to].startsWith("#")) to += 1;
    if (to === this.lines.length || this.#isUnfinished(to)) return this.growing && below;
    return to < end && (this.isPlain(to) || this.#isStatement(to));
  }

  /** True if the next line has such a beginning, or is still to come. @param {number} at @param {RegExp} beginning */
  #isAbove(at, beginning) {
    const next = this.lines[at + 1] ?? "";
    return next === "" ? this.#isUnfinished(at + 1) : beginning.test(next);
  }

  /** The line after triple quotes that open in this one; 0 if none do, or they are never closed. @param {number} at */
  #pastQuotes(at) {
    const sign = /"""|'''/.exec(this.lines[at])?.[0];
    if (!sign) return 0;
    if (this.lines[at].split(sign).length % 2 === 1) return at + 1;
    for (let to = at + 1; to < this.lines.length; to++) if (this.lines[to].includes(sign)) return to + 1;
    return this.growing ? this.lines.length : 0;
  }

  /** Where the code that begins at a line ends. @param {number} at */
  end(at) {
    let to = at;
    let next = at;
    while (next < this.lines.length) {
      if (this.lines[next].trim() === "") next += 1;
      else if (next === at || this.#goesOn(next)) to = next = Math.max(next + 1, this.#pastQuotes(next));
      else break;
    }
    return to;
  }
}

/**
 * The block of code that begins at a line, or null.
 *
 * @param {string[]} lines @param {number} at @param {boolean} growing
 */
export function bareCode(lines, at, growing) {
  const answer = new Lines(lines, growing);
  if (!answer.begins(at)) return null;
  const to = answer.end(at);
  const language = /^\s/.test(lines[at]) ? "" : "python";
  const text = lines.slice(at, to).join("\n");
  return { block: { type: /** @type {const} */ ("code"), language, text, open: false }, to };
}

/**
 * True if a line is code though prose stands right above it.
 *
 * @param {string[]} lines @param {number} at @param {boolean} growing
 */
export const breaksProse = (lines, at, growing) => new Lines(lines, growing).isPlain(at);
