/** A batch is added: a file of lines is chosen, sent, and made a batch. */

import { problemWords } from "./api.js";
import { h, put, putProblem } from "./dom.js";
import { labelled } from "./dialogs.js";
import { ENDPOINTS, endpointOf } from "./jobs.js";

const START_BYTES = 1 << 20;
const PURPOSE = "batch";

export class JobForm {
  /**
   * @param {import("./api.js").Api} api @param {() => string[]} names of models
   * @param {(batch: import("./jobs.js").Batch, file: string) => void} onAdded
   */
  constructor(api, names, onAdded) {
    this.api = api;
    this.names = names;
    this.onAdded = onAdded;
    this.file = h("input", { type: "file", id: "job-file", accept: ".jsonl,.ndjson,application/jsonl" });
    this.model = h("select", { id: "job-model" });
    this.endpoint = h("select", { id: "job-endpoint" }, ENDPOINTS.map((path) => h("option", { value: path }, path)));
    this.priority = h("input", { type: "text", id: "job-priority", inputmode: "numeric", autocomplete: "off", placeholder: "0" });
    this.quiet = h("input", { type: "text", id: "job-quiet", autocomplete: "off", placeholder: "22:00-07:00" });
    this.button = h("button", { type: "submit", class: "button main-button" }, "Add");
    this.state = h("span", { class: "note", role: "status" });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.root = h("form", { class: "panel-form job-form", novalidate: true, "aria-labelledby": "job-form-title" }, h("h2", { id: "job-form-title" }, "Add a batch"),
      labelled("File", this.file, "Lines of OpenAI's batch format (.jsonl): custom_id, method, url, body"),
      this.more = h("details", {}, h("summary", {}, "Model, endpoint, priority, quiet hours"), h("div", { class: "pair" }, labelled("Model", this.model, "Who answers all lines"), labelled("Endpoint", this.endpoint, "That of the lines, which the file's first one tells"),
        labelled("Priority", this.priority, "A higher one is first"), labelled("Quiet hours", this.quiet, "The only time at which it runs, the server's clock"))),
      h("footer", { class: "completion-foot" }, this.button, this.state), this.problem);
    this.file.addEventListener("change", () => this.#chosen());
    this.root.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); this.#add(); });
  }

  /** The models that are offered now. */
  offer() {
    const chosen = this.model.value;
    const names = this.names();
    this.model.replaceChildren(h("option", { value: "" }, "As each line says"), ...names.map((name) => h("option", { value: name }, name)));
    this.model.value = names.includes(chosen) ? chosen : "";
  }

  async #chosen() {
    const file = this.file.files[0];
    const endpoint = file && endpointOf(await file.slice(0, START_BYTES).text());
    if (endpoint) this.endpoint.value = endpoint;
    if (file) this.#tell("");
  }

  /** @param {string} problem "": none @param {HTMLElement} [control] that is wrong */
  #tell(problem, control) {
    for (const one of [this.file, this.priority]) one.removeAttribute("aria-invalid");
    control?.setAttribute("aria-invalid", "true");
    if (control && this.more.contains(control)) this.more.open = true;
    control?.focus();
    putProblem(this.problem, problem);
  }

  async #add() {
    if (this.button.getAttribute("aria-disabled") === "true") return;
    const file = this.file.files[0];
    const priority = this.priority.value.trim();
    if (!file) return this.#tell("Choose a file first.", this.file);
    if (!/^([+-]?\d+)?$/.test(priority)) return this.#tell(`Priority: ${priority} is not a whole number.`, this.priority);
    this.#tell("");
    this.button.setAttribute("aria-disabled", "true");
    put(this.state, `${file.name} is sent…`);
    try {
      const batch = await this.#made(file, priority);
      this.file.value = "";
      this.onAdded(batch, file.name);
    } catch (error) {
      this.#tell(problemWords(error));
    }
    this.button.removeAttribute("aria-disabled");
    put(this.state, "");
  }

  /** A file of which no batch is made is removed again. @param {File} file @param {string} priority @returns {Promise<import("./jobs.js").Batch>} */
  async #made(file, priority) {
    const { id } = await this.api.upload("v1/files", file, PURPOSE);
    const quiet = this.quiet.value.trim();
    const body = {
      input_file_id: id, endpoint: this.endpoint.value, completion_window: "24h", ...(this.model.value ? { model: this.model.value } : {}),
      ...(priority ? { priority: Number(priority) } : {}), ...(quiet ? { quiet_hours: quiet } : {}),
    };
    try {
      return await this.api.post("v1/batches", body);
    } catch (error) {
      await this.api.remove(`v1/files/${encodeURIComponent(id)}`).catch(() => null);
      throw error;
    }
  }
}
