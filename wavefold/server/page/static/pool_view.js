/** The models' panel: what the folder has, what is in memory; load and unload. It looks again while it is open. */

import { problemWords } from "./api.js";
import { arrange, h, put, putFacts, putProblem } from "./dom.js";
import { Looking } from "./looking.js";
import { actOf, changeWords, facts, kindWords, memoryWords } from "./pool.js";

/** @typedef {import("./pool.js").Pooled} Pooled */

const POOL = "v1/wavefold/models";
const EVERY_MS = 1000;
const LABELS = { load: "Load", unload: "Unload" };

export class PoolView {
  #looking = new Looking(() => this.#look(), () => EVERY_MS);
  /** @type {Map<string, ModelRow>} */
  #rows = new Map();
  /** @type {Map<string, string>} */
  #states = new Map();
  #offered = "";

  /**
   * @param {HTMLElement} root @param {import("./api.js").Api} api @param {import("./announce.js").Announcer} announcer
   * @param {() => void} onOther models have come or gone
   */
  constructor(root, api, announcer, onOther) {
    this.api = api;
    this.announcer = announcer;
    this.onOther = onOther;
    this.memory = h("p", { class: "panel-lead" });
    this.bar = h("i");
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.list = h("ul", { class: "served", "aria-label": "Models" });
    root.append(h("div", { class: "panel-inner" }, h("h1", {}, "Models"),
      h("p", { class: "note" }, "A request loads the model that it names. Models that nobody uses leave when another one needs their memory."),
      this.memory, h("span", { class: "bar accent", "aria-hidden": "true" }, this.bar), this.problem, this.list));
  }

  open() {
    this.#looking.start();
  }

  close() {
    this.#looking.stop();
  }

  async #look() {
    try {
      this.#show(await this.api.get(POOL));
      this.problem.hidden = true;
    } catch (error) {
      this.problem.hidden = false;
      this.problem.textContent = problemWords(error);
    }
  }

  /** @param {import("./pool.js").Pool} pool */
  #show({ memory, loads, models }) {
    const { words, share } = memoryWords(memory, loads);
    put(this.memory, words);
    this.bar.style.setProperty("--share", String(share));
    const changes = changeWords(this.#states, models);
    if (changes) this.announcer.say(changes);
    this.#states = new Map(models.map(({ name, state }) => [name, state]));
    const names = models.map(({ name }) => name);
    if (names.join("\n") !== [...this.#rows.keys()].join("\n")) {
      this.#rows = new Map(names.map((name) => [name, this.#rows.get(name) ?? new ModelRow(name, (act) => this.#act(name, act))]));
      arrange(this.list, [...this.#rows.values()].map(({ root }) => root));
    }
    for (const model of models) this.#rows.get(model.name)?.show(model, Date.now());
    const offered = models.filter(({ fault }) => !fault).map(({ name }) => name).join("\n");
    if (this.#offered && offered !== this.#offered) this.onOther();
    this.#offered = offered;
  }

  /** @param {string} name @param {"load" | "unload"} act */
  async #act(name, act) {
    const row = this.#rows.get(name);
    row?.told("");
    const done = this.api.post(`${POOL}/${act}`, { model: name });
    this.#looking.now();
    try {
      await done;
    } catch (error) {
      row?.told(problemWords(error));
    }
    this.#looking.now();
  }
}

/** A model's part of the list. It is changed in place, so that a focus on its button stays. */
class ModelRow {
  /** @type {"load" | "unload" | null} */
  #act = null;

  /** @param {string} name @param {(act: "load" | "unload") => void} onAct */
  constructor(name, onAct) {
    this.name = name;
    this.kind = h("span", { class: "tag" });
    this.state = h("span", {});
    this.pinned = h("span", { class: "tag", hidden: true }, "pinned");
    this.facts = h("dl", { class: "served-facts" });
    this.fault = h("p", { class: "turn-problem", hidden: true });
    this.problem = h("p", { class: "turn-problem", role: "alert", hidden: true });
    this.button = h("button", { type: "button", class: "button small", on: { click: () => { if (this.#act) onAct(this.#act); } } });
    this.root = h("li", { class: "served-row", "data-model": name },
      h("div", { class: "served-head" }, h("h2", {}, name), this.kind, this.pinned, h("span", { class: "grow" }),
        h("span", { class: "state" }, h("i", { "aria-hidden": "true" }), this.state), this.button),
      this.facts, this.fault, this.problem);
  }

  /** @param {Pooled} model @param {number} now in ms */
  show(model, now) {
    this.#act = actOf(model);
    this.root.dataset.state = model.state;
    put(this.kind, kindWords(model));
    put(this.state, model.state);
    this.pinned.hidden = !model.pinned;
    putFacts(this.facts, facts(model, now));
    this.fault.hidden = !model.fault;
    put(this.fault, model.fault ?? "");
    const label = LABELS[this.#act ?? (model.state === "leaving" ? "unload" : "load")];
    put(this.button, label);
    this.button.setAttribute("aria-label", `${label} ${this.name}`);
    this.button.setAttribute("aria-disabled", String(this.#act === null));
    this.button.hidden = model.state === "faulty";
  }

  /** @param {string} problem "": none */
  told(problem) {
    putProblem(this.problem, problem);
  }
}
