/** The model that is asked: chosen at the top of the page, kept in the browser. */

import { h } from "./dom.js";

const KEY = "wavefold.model";

export class Chooser {
  /** @type {string[]} */
  names = [];
  model = "";

  /** @param {any} select @param {Storage | null} storage @param {() => void} onChange the model is another one */
  constructor(select, storage, onChange) {
    this.select = select;
    this.storage = storage;
    this.onChange = onChange;
    select.addEventListener("change", () => {
      try {
        storage?.setItem(KEY, select.value);
      } catch {
        // A full or forbidden storage: the choice holds until the page is closed.
      }
      this.#take(select.value);
    });
  }

  /** Names that the server offers now. One that was chosen stays chosen, and comes back when it is offered again. @param {string[]} names */
  show(names) {
    const kept = this.storage?.getItem(KEY) ?? "";
    if (names.join("\n") !== this.names.join("\n")) this.select.replaceChildren(...names.map((id) => h("option", { value: id }, id)));
    this.names = names;
    this.#take([kept, this.model].find((name) => names.includes(name)) ?? names[0] ?? "");
  }

  /** @param {string} model */
  #take(model) {
    this.select.value = model;
    if (model === this.model) return;
    this.model = model;
    this.onChange();
  }
}
