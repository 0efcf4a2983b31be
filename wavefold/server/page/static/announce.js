/**
 * What a screen reader is told: short states at once, a growing answer sentence by sentence.
 *
 * The turns themselves are no live region: a reader would hear each token, or the whole answer again and again.
 */

const PAUSE_MS = 1200;

export class Announcer {
  #spoken = 0;
  /** @type {number | undefined} */
  #timer;
  #text = "";

  /** @param {HTMLElement} status @param {HTMLElement} speech */
  constructor(status, speech) {
    this.status = status;
    this.speech = speech;
  }

  /** @param {string} words */
  say(words) {
    this.status.textContent = words;
  }

  /** A new answer begins. */
  begin() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#spoken = 0;
    this.#text = "";
    this.speech.replaceChildren();
  }

  /** The answer so far: its whole sentences are spoken after a pause. @param {string} text */
  grow(text) {
    this.#text = text;
    this.#timer ??= Number(setTimeout(() => this.#speak(false), PAUSE_MS));
  }

  /** The answer is over: the rest is spoken. @param {string} words the state that it ended in */
  end(words) {
    clearTimeout(this.#timer);
    this.#speak(true);
    this.say(words);
  }

  /** @param {boolean} all */
  #speak(all) {
    this.#timer = undefined;
    const rest = this.#text.slice(this.#spoken);
    const length = all ? rest.length : sentencesEnd(rest);
    if (!length) return;
    this.#spoken += length;
    const line = document.createElement("p");
    line.textContent = rest.slice(0, length).trim();
    this.speech.append(line);
  }
}

/** Where the last whole sentence or line ends, or 0. @param {string} text */
export function sentencesEnd(text) {
  let end = 0;
  for (const found of text.matchAll(/[.!?:;](?=\s)|\n/g)) end = found.index + 1;
  return end;
}
