/** A batch's part of the list, changed in place: state, progress, results. */

import { problemWords } from "./api.js";
import { h, put, putFacts, putProblem } from "./dom.js";
import { batchFacts, errorLines, isRunning, progressWords, stateWords } from "./jobs.js";
import { download } from "./sidebar.js";

/** @typedef {import("./jobs.js").Batch} Batch */

const TYPE = "application/jsonl";

/** @param {string} id of a file */
export const contentOf = (id) => `v1/files/${encodeURIComponent(id)}/content`;

export class JobRow {
  name = "";
  #links = "";

  /** @param {string} id @param {import("./api.js").Api} api @param {(row: JobRow) => void} onCancel @param {(row: JobRow) => void} onRemove */
  constructor(id, api, onCancel, onRemove) {
    this.id = id;
    this.api = api;
    this.title = h("h2", { id: `title-${id}`, tabindex: "-1" });
    this.state = h("span", {});
    this.progress = h("progress", { "aria-labelledby": `title-${id}` });
    this.words = h("p", { class: "panel-lead" });
    this.paused = h("p", { class: "note" });
    this.facts = h("dl", { class: "served-facts" });
    this.errors = h("ul", { class: "turn-problem", hidden: true });
    this.links = h("span", { class: "job-links" });
    this.cancel = h("button", { type: "button", class: "button small", on: { click: () => onCancel(this) } }, "Cancel");
    this.remove = h("button", { type: "button", class: "button small", hidden: true, on: { click: () => onRemove(this) } }, "Remove");
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.root = h("li", { class: "served-row", "data-batch": id },
      h("div", { class: "served-head" }, this.title, h("span", { class: "grow" }), h("span", { class: "state" }, h("i", { "aria-hidden": "true" }), this.state), this.cancel, this.remove),
      this.progress, this.words, this.paused, this.facts, this.errors, this.links, this.problem);
  }

  /** @param {string} name of the file whose lines it has */
  named(name) {
    this.name = name;
    put(this.title, name);
    this.cancel.setAttribute("aria-label", `Cancel ${name}`);
    this.remove.setAttribute("aria-label", `Remove ${name}`);
  }

  /** @param {Batch} batch */
  show(batch) {
    const { total, completed, failed } = batch.request_counts;
    const running = isRunning(batch);
    this.root.dataset.state = stateWords(batch);
    put(this.state, stateWords(batch));
    this.progress.hidden = !total;
    this.progress.max = Math.max(1, total);
    this.progress.value = completed + failed;
    put(this.words, progressWords(batch));
    const paused = running ? (batch.wavefold?.paused ?? "") : "";
    put(this.paused, paused && `It does not go on: ${paused}`);
    putFacts(this.facts, batchFacts(batch));
    const errors = errorLines(batch);
    this.errors.hidden = !errors.length;
    if (this.errors.childElementCount !== errors.length) this.errors.replaceChildren(...errors.map((text) => h("li", {}, text)));
    if (!running && this.cancel === document.activeElement) this.title.focus();
    this.cancel.hidden = !running;
    this.remove.hidden = running;
    this.#linked(batch);
  }

  /** @param {Batch} batch */
  #linked({ output_file_id: output, error_file_id: error }) {
    const ids = `${output} ${error} ${this.name}`;
    if (ids === this.#links) return;
    this.#links = ids;
    const base = this.name.replace(/\.[^.]*$/, "");
    const links = /** @type {[string | null, string, string][]} */ ([[output, "Output file", `${base}-output.jsonl`], [error, "Error file", `${base}-errors.jsonl`]]);
    this.links.replaceChildren(...links.flatMap(([id, label, file]) => (id ? [this.#link(id, label, file)] : [])));
  }

  /** The browser takes the file by itself, unless a key is needed, which it would not send. @param {string} id @param {string} label @param {string} file its name */
  #link(id, label, file) {
    const take = async (/** @type {MouseEvent} */ event) => {
      if (!this.api.key) return;
      event.preventDefault();
      try {
        download(file, await this.api.bytes(contentOf(id)), TYPE);
        this.told("");
      } catch (error) {
        this.told(problemWords(error));
      }
    };
    return h("a", { href: contentOf(id), download: file, "aria-label": `${label} of ${this.name}`, on: { click: take } }, label);
  }

  /** @param {string} problem "": none */
  told(problem) {
    putProblem(this.problem, problem);
  }
}
