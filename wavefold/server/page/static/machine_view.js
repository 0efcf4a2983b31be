/** The machine's panel, fetched anew while it is on the page and the page is seen. */

import { ApiError } from "./api.js";
import { h } from "./dom.js";
import { part } from "./inside_parts.js";
import { machineRows } from "./machine.js";

const EVERY_MS = 2500;

export class MachineView {
  /** @type {number | undefined} */
  #timer;
  #on = false;

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.rows = h("dl", { class: "machine" });
    this.note = h("p", { class: "note" });
    this.root = part("Machine", "inside-machine", this.rows, this.note);
  }

  start() {
    if (this.#on) return;
    this.#on = true;
    this.#fetch();
  }

  stop() {
    this.#on = false;
    clearTimeout(this.#timer);
  }

  async #fetch() {
    if (!this.#on) return;
    if (!document.hidden) {
      try {
        const machine = await this.api.get("v1/wavefold/machine");
        this.rows.replaceChildren(...machineRows(machine).flatMap(({ label, value, share }) => [
          h("dt", {}, label), h("dd", {}, value, share === null ? null : h("span", { class: "bar accent", "aria-hidden": "true" }, h("i", { style: { "--share": String(share) } }))),
        ]));
        this.note.textContent = "";
      } catch (error) {
        this.note.textContent = error instanceof Error ? error.message : String(error);
        if (error instanceof ApiError && error.status === 404) this.#on = false;
      }
    }
    clearTimeout(this.#timer);
    if (this.#on) this.#timer = Number(setTimeout(() => this.#fetch(), EVERY_MS));
  }
}
