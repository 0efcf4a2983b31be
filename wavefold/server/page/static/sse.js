/**
 * Server-sent events, from pieces of text cut anywhere.
 *
 * The grammar is that of the HTML standard, section 9.2.6: lines end in CR LF, LF or CR; a blank line ends an event;
 * a line that begins with a colon is a comment. Comments matter here: progress comes as `: progress 1024/50000`.
 */

/** @typedef {{name: string, data: string}} ServerEvent */

export class EventParser {
  #rest = "";
  #first = true;
  /** @type {string[]} */
  #data = [];
  #name = "";
  #onEvent;
  #onComment;

  /**
   * @param {(event: ServerEvent) => void} onEvent
   * @param {(comment: string) => void} [onComment] the text after the colon, without blanks around it
   */
  constructor(onEvent, onComment = () => {}) {
    this.#onEvent = onEvent;
    this.#onComment = onComment;
  }

  /** Reads a piece. A CR at its end waits for the next piece, which may begin with its LF. @param {string} text */
  push(text) {
    if (this.#first && text) {
      text = text.replace(/^\uFEFF/, "");
      this.#first = false;
    }
    this.#rest += text;
    let from = 0;
    for (;;) {
      const end = nextEnd(this.#rest, from);
      if (!end) break;
      this.#line(this.#rest.slice(from, end.at));
      from = end.next;
    }
    this.#rest = this.#rest.slice(from);
  }

  /** The stream is over: a CR that waited ends its line; an event without its blank line is dropped, as the standard says. */
  end() {
    if (this.#rest.endsWith("\r")) this.#line(this.#rest.slice(0, -1));
    this.#rest = "";
    this.#data = [];
    this.#name = "";
  }

  /** @param {string} line */
  #line(line) {
    if (line === "") {
      if (this.#data.length) this.#onEvent({ name: this.#name || "message", data: this.#data.join("\n") });
      this.#data = [];
      this.#name = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) {
      this.#onComment(line.slice(1).trim());
      return;
    }
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
  }
}

/** @param {string} text @param {number} from @returns {{at: number, next: number} | null} */
function nextEnd(text, from) {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 10) return { at, next: at + 1 };
    if (code === 13) {
      if (at + 1 === text.length) return null;
      return { at, next: text.charCodeAt(at + 1) === 10 ? at + 2 : at + 1 };
    }
  }
  return null;
}

/** Tokens read of a prompt, from a comment `progress 1024/50000`; null for another comment. @param {string} comment */
export function progressOf(comment) {
  const found = /^progress (\d+)\/(\d+)$/.exec(comment);
  return found ? { read: Number(found[1]), of: Number(found[2]) } : null;
}

/**
 * Feeds the body of a response to a parser until it ends or the signal aborts.
 * @param {ReadableStream<Uint8Array>} body
 * @param {EventParser} parser
 */
export async function readEvents(body, parser) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parser.push(decoder.decode(value, { stream: true }));
    }
    parser.push(decoder.decode());
    parser.end();
  } finally {
    reader.cancel().catch(() => {});
  }
}
