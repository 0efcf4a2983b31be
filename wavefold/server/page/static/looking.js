/** Looks again and again while it is wanted and the page is seen. Looks never overlap. */

export class Looking {
  #on = false;
  #busy = false;
  #again = false;
  /** @type {any} */
  #timer;

  /** @param {() => Promise<void>} look tells its errors itself @param {() => number} everyMs the pause after a look */
  constructor(look, everyMs) {
    this.look = look;
    this.everyMs = everyMs;
  }

  /** Begins, or looks at once where it has begun. */
  start() {
    this.#on = true;
    this.now();
  }

  stop() {
    this.#on = false;
    clearTimeout(this.#timer);
  }

  /** Looks at once; where a look is under way, another follows it, since it may not see what was just done. */
  async now() {
    clearTimeout(this.#timer);
    if (!this.#on) return;
    if (this.#busy) {
      this.#again = true;
      return;
    }
    this.#busy = true;
    if (!document.hidden) await this.look();
    this.#busy = false;
    const wait = this.#again ? 0 : this.everyMs();
    this.#again = false;
    if (this.#on) this.#timer = setTimeout(() => this.now(), wait);
  }
}
