/** The jobs' panel: batches, newest first, and one is added. Those that run are followed to their end, also when it is not shown. */

import { problemWords } from "./api.js";
import { confirmed } from "./dialogs.js";
import { arrange, h } from "./dom.js";
import { JobForm } from "./job_form.js";
import { JobRow } from "./job_row.js";
import { isRunning, progressWords, stateWords } from "./jobs.js";
import { Looking } from "./looking.js";

/** @typedef {import("./jobs.js").Batch} Batch */

const BATCHES = "v1/batches";
const EVERY_MS = 1000;
const BEHIND_MS = 5000;
const LISTED = 20;
const MOST_LISTED = 100;

export class JobsView {
  #looking = new Looking(() => this.#look(), () => (this.#isOpen ? EVERY_MS : BEHIND_MS));
  #isOpen = false;
  #limit = LISTED;
  /** @type {Map<string, JobRow>} */
  #rows = new Map();
  /** @type {Map<string, string>} */
  #states = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();

  /** @param {HTMLElement} root @param {import("./api.js").Api} api @param {import("./announce.js").Announcer} announcer @param {() => string[]} names of models */
  constructor(root, api, announcer, names) {
    this.api = api;
    this.announcer = announcer;
    this.form = new JobForm(api, names, (batch, file) => this.#added(batch, file));
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.empty = h("p", { class: "note", hidden: true }, "The queue has no batches.");
    this.list = h("ul", { class: "served", "aria-label": "Batches" });
    this.more = h("button", { type: "button", class: "button small", hidden: true, on: { click: () => this.#older() } }, "Older batches");
    root.append(h("div", { class: "panel-inner" }, h("h1", {}, "Jobs"),
      h("p", { class: "note" }, "Requests that are answered when nobody else asks. They go on when this page is closed, and when the server has been started again."),
      this.form.root, this.problem, this.empty, this.list, this.more));
  }

  open() {
    this.#isOpen = true;
    this.form.offer();
    this.#looking.start();
  }

  close() {
    this.#isOpen = false;
    this.#stopAtEnd();
  }

  #stopAtEnd() {
    if (!this.#isOpen && ![...this.#states.values()].includes("running")) this.#looking.stop();
  }

  async #look() {
    try {
      const { data, has_more: hasMore } = await this.api.get(`${BATCHES}?limit=${this.#limit}`);
      await this.#learnNames(data);
      this.#show(data);
      this.more.hidden = !hasMore || this.#limit >= MOST_LISTED;
      this.problem.hidden = true;
    } catch (error) {
      this.problem.hidden = false;
      this.problem.textContent = problemWords(error);
    }
    this.#stopAtEnd();
  }

  /** A batch is called by its file; by its id where the file was removed. @param {Batch[]} batches */
  async #learnNames(batches) {
    const unknown = [...new Set(batches.map((batch) => batch.input_file_id))].filter((id) => !this.#names.has(id));
    await Promise.all(unknown.map(async (id) => {
      const file = await this.api.get(`v1/files/${encodeURIComponent(id)}`).catch(() => null);
      if (typeof file?.filename === "string") this.#names.set(id, file.filename);
    }));
  }

  /** @param {Batch[]} batches */
  #show(batches) {
    this.empty.hidden = batches.length > 0;
    const ids = batches.map(({ id }) => id);
    if (ids.join("\n") !== [...this.#rows.keys()].join("\n")) {
      this.#rows = new Map(ids.map((id) => [id, this.#rows.get(id) ?? new JobRow(id, this.api, (row) => this.#cancel(row), (row) => this.#remove(row))]));
      arrange(this.list, [...this.#rows.values()].map(({ root }) => root));
    }
    const changes = [];
    for (const batch of batches) {
      const row = /** @type {JobRow} */ (this.#rows.get(batch.id));
      row.named(this.#names.get(batch.input_file_id) ?? batch.id);
      row.show(batch);
      const state = isRunning(batch) ? "running" : batch.status;
      if (this.#states.has(batch.id) && this.#states.get(batch.id) !== state) changes.push([`${row.name}: ${stateWords(batch)}`, progressWords(batch)].filter(Boolean).join(", "));
      this.#states.set(batch.id, state);
    }
    if (changes.length) this.announcer.say(changes.join("; "));
  }

  #older() {
    this.#limit = Math.min(MOST_LISTED, this.#limit + LISTED);
    this.#looking.now();
  }

  /** @param {Batch} batch @param {string} file its name */
  #added(batch, file) {
    this.#states.set(batch.id, isRunning(batch) ? "running" : batch.status);
    this.announcer.say(isRunning(batch) ? `${file} was added, ${batch.request_counts.total} lines` : `${file} makes no batch: its errors are in the list`);
    this.#looking.start();
  }

  /** @param {JobRow} row */
  async #cancel(row) {
    if (!(await confirmed(`End “${row.name}” now? Results so far stay.`, "End it", "Go on"))) return;
    try {
      await this.api.post(`${BATCHES}/${encodeURIComponent(row.id)}/cancel`, {});
      row.told("");
    } catch (error) {
      row.told(problemWords(error));
    }
    this.#looking.now();
  }

  /** @param {JobRow} row */
  async #remove(row) {
    if (!(await confirmed(`Remove “${row.name}” with its results?`, "Remove it", "Keep it"))) return;
    try {
      await this.api.remove(`${BATCHES}/${encodeURIComponent(row.id)}`);
      const rows = [...this.#rows.values()];
      const place = rows.indexOf(row);
      ((rows[place + 1] ?? rows[place - 1])?.title ?? this.form.file).focus();
      this.#states.delete(row.id);
      this.announcer.say(`${row.name} was removed`);
    } catch (error) {
      row.told(problemWords(error));
    }
    this.#looking.now();
  }
}
