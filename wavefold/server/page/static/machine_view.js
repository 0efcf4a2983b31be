/** The machine's panel, fetched anew while it is on the page and the page is seen. */

import { ApiError } from "./api.js";
import { h } from "./dom.js";
import { part } from "./inside_parts.js";
import { Looking } from "./looking.js";
import { machineRows } from "./machine.js";

const EVERY_MS = 2500;

export class MachineView {
  #looking = new Looking(() => this.#fetch(), () => EVERY_MS);

  /** @param {import("./api.js").Api} api @param {() => string} model whose rates are shown; "": the server's only one */
  constructor(api, model) {
    this.api = api;
    this.model = model;
    this.rows = h("dl", { class: "machine" });
    this.note = h("p", { class: "note" });
    this.root = part("Machine", "inside-machine", this.rows, this.note);
  }

  start() {
    this.#looking.start();
  }

  stop() {
    this.#looking.stop();
  }

  async #fetch() {
    const model = this.model();
    try {
      const machine = await this.api.get(model ? `v1/wavefold/machine?model=${encodeURIComponent(model)}` : "v1/wavefold/machine");
      if (model !== this.model()) return;
      this.rows.replaceChildren(...machineRows(machine).flatMap(({ label, value, share }) => [
        h("dt", {}, label), h("dd", {}, value, share === null ? null : h("span", { class: "bar accent", "aria-hidden": "true" }, h("i", { style: { "--share": String(share) } }))),
      ]));
      this.note.textContent = "";
    } catch (error) {
      this.rows.replaceChildren();
      const absent = error instanceof ApiError && error.status === 404 && model;
      this.note.textContent = absent ? `${model} is not in memory.` : error instanceof Error ? error.message : String(error);
    }
  }
}
