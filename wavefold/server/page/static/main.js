/** The page: its parts, and what joins them. */

import { Announcer } from "./announce.js";
import { Api, ApiError } from "./api.js";
import { ChatView } from "./chat_view.js";
import { Chooser } from "./chooser.js";
import { CompareView } from "./compare_view.js";
import { CompletionView } from "./completion_view.js";
import { showKeys, showSettings } from "./dialogs.js";
import { byId, h, icon, iconButton } from "./dom.js";
import { InsideView } from "./inside_view.js";
import { JobsView } from "./jobs_view.js";
import { PoolView } from "./pool_view.js";
import { loadSettings, saveSettings } from "./settings.js";
import { listenForShortcuts } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { Tabs } from "./tabs.js";
import { Talking, mended } from "./talking.js";
import { applyTheme, isDark } from "./theme.js";
import { choose, messagesOf, newConversation, shownTurns } from "./tree.js";

/** @typedef {import("./tree.js").Turn} Turn */

/** A browser may forbid storage: then nothing is kept. @template T @param {() => T} storage @returns {T | null} */
function allowed(storage) {
  try {
    return storage();
  } catch {
    return null;
  }
}

const local = allowed(() => localStorage);
const settings = loadSettings(local);
applyTheme(settings.theme);
const api = new Api(document.baseURI, allowed(() => sessionStorage));
const announcer = new Announcer(byId("status"), byId("speech"));
const narrow = matchMedia("(max-width: 860px)");

class Page {
  /** @param {Store} store */
  constructor(store) {
    this.store = store;
    this.talking = new Talking(api, store, settings, {
      changed: () => this.render(),
      grown: (turn) => {
        this.chat.grown(turn);
        announcer.grow(turn.content);
      },
      progress: (turn, read, of) => {
        this.chat.progress(turn, read, of);
        announcer.say(`Reading the prompt: ${Math.round((100 * read) / of)} %`);
      },
      ended: (turn) => announcer.end(turn.error || (turn.finish === "stopped" ? "Answer stopped" : "Answer complete")),
    });
    this.inside = new InsideView(byId("inside"), api, () => this.closeInside());
    this.chat = new ChatView(this.talking, { look: (turn) => this.look(turn) });
    this.chat.onChoose = (turn, by) => {
      const shown = choose(this.talking.talk, turn.id, by);
      store.keep(this.talking.talk);
      this.render({ turn: shown.id, act: by < 0 ? "left" : "right" });
    };
    this.completion = new CompletionView(byId("completion"), { api, settings, announcer, model: () => this.talking.model, look: (subject) => this.openInside(subject) });
    this.compare = new CompareView(byId("compare"), { api, settings, announcer });
    this.pool = new PoolView(byId("models"), api, announcer, () => this.#models());
    this.jobs = new JobsView(byId("jobs"), api, announcer, () => this.chooser.names);
    this.chooser = new Chooser(byId("model"), local, () => this.#chosen());
    this.tabs = new Tabs(["chat", "completion", "compare", "models", "jobs"], (name) => this.#shown(name));
    this.sidebar = new Sidebar({
      open: (talk) => this.open(talk),
      rename: async (talk, title) => { await store.rename(talk, title); this.render(); },
      remove: (talk) => this.remove(talk),
    });
    store.onProblem = (problem) => this.alert(problem);
    store.onOther = (id) => this.takeOther(id);
    this.#bars();
    this.#keys();
    window.addEventListener("pagehide", () => store.flush());
    byId("talks-note").hidden = store.lasting;
    byId("talks-note").textContent = "This browser keeps no data for the page: conversations end with it.";
    this.render();
    this.#ready();
    this.#models(true);
  }

  /** What is typed at once goes into the message field, unless a keyboard would cover a phone's screen. */
  #ready() {
    const isFree = document.activeElement === document.body && !document.querySelector("dialog[open]");
    if (isFree && this.tabs.current === "chat" && matchMedia("(pointer: fine)").matches) byId("composer-text").focus();
  }

  #bars() {
    byId("new-talk").append(h("button", { type: "button", class: "button new", on: { click: () => this.begin() } }, icon("plus"), h("span", {}, "New conversation")));
    byId("menu-place").append(iconButton("menu", "Conversations", () => this.toggleSidebar(), { bare: true, id: "menu", "aria-expanded": "true", "aria-controls": "sidebar" }));
    byId("sidebar-close").append(iconButton("close", "Hide the conversations", () => this.toggleSidebar(false), { bare: true }));
    byId("sidebar-foot").append(iconButton("sliders", "Settings", () => this.settings()), iconButton("keys", "Keys", showKeys),
      h("a", { class: "text-button", href: "docs" }, h("span", {}, "Endpoints")));
    byId("top-actions").append(iconButton(isDark(settings.theme) ? "sun" : "moon", "Dark or light", () => this.flip(), { bare: true, id: "flip" }),
      iconButton("sliders", "Settings", () => this.settings(), { bare: true }));
    byId("veil").addEventListener("click", () => this.toggleSidebar(false));
    narrow.addEventListener("change", () => this.toggleSidebar(!narrow.matches));
    this.toggleSidebar(!narrow.matches);
  }

  /** @param {string} name of the part that is shown now */
  #shown(name) {
    if (name === "completion") this.completion.shown();
    for (const [one, panel] of Object.entries({ models: this.pool, jobs: this.jobs })) {
      if (one === name) panel.open();
      else panel.close();
    }
  }

  /** Another model is chosen: Look inside asks that one. The examples are for a base, not for its adapters. */
  #chosen() {
    this.talking.model = this.chooser.model;
    this.chat.suggest(!this.chooser.model.includes(":"));
    const subject = this.inside.isOpen ? this.#looked?.() : null;
    if (subject) this.inside.open(subject, false);
  }

  #keys() {
    listenForShortcuts({
      keys: showKeys,
      escape: () => this.escape(),
      new: () => this.begin(),
      message: () => { this.tabs.show("chat"); byId("composer-text").focus(); },
      edit: () => this.chat.editLast(),
      again: () => {
        const last = shownTurns(this.talking.talk).at(-1);
        if (last?.role === "assistant") this.chat.acts.again(last);
      },
      inside: () => this.toggleInside(),
      settings: () => this.settings(),
      sidebar: () => this.toggleSidebar(),
      tab: () => this.tabs.show(byId("chat").hidden ? "chat" : "completion", true),
      compare: () => this.tabs.show("compare", true),
      models: () => this.tabs.show("models", true),
      jobs: () => this.tabs.show("jobs", true),
    });
  }

  escape() {
    if (this.talking.running) this.talking.stop();
    else if (this.completion.isRunning) this.completion.stop();
    else if (this.compare.isRunning) this.compare.stop();
    else if (narrow.matches && document.body.classList.contains("with-sidebar")) this.toggleSidebar(false);
    else if (this.inside.isOpen) this.closeInside();
  }

  /** @param {boolean} [asks] the settings open if a key is needed */
  async #models(asks = false) {
    try {
      const { names, parts } = await api.models();
      this.#keyProblem = "";
      this.chooser.show(names);
      this.jobs.form.offer();
      this.compare.offer(this.chooser.names);
      this.alert("");
      for (const name of /** @type {const} */ (["models", "jobs"])) this.tabs.offer(name, Boolean(parts[name]));
      this.tabs.offer("compare", !byId("tab-models").hidden && this.chooser.names.length > 1); // several names may be one model's
    } catch (error) {
      this.alert(error instanceof Error ? error.message : String(error));
      if (!(error instanceof ApiError) || error.status !== 401) return;
      const problem = api.key ? "The server refused this key." : "The server asks for an API key.";
      this.#keyProblem = `${problem} Stored conversations can be read without one.`;
      if (asks) this.settings("set-key");
    }
  }
  #keyProblem = "";

  /** @param {string} problem "": none */
  alert(problem) {
    const alert = byId("alert");
    alert.hidden = !problem;
    alert.textContent = problem;
  }

  /** @param {{turn: string, act: string} | null} [focus] */
  render(focus = null) {
    this.chat?.render(focus);
    this.sidebar?.render(this.store.list(), this.talking.talk.id);
    const running = this.talking.running?.turn;
    if (running && running.content === "" && running.reasoning === "") {
      announcer.begin();
      announcer.say("The model answers");
    }
  }

  /** @param {import("./tree.js").Conversation} talk */
  open(talk) {
    this.tabs.show("chat");
    this.talking.open(this.talking.running?.talk === talk ? talk : mended(talk));
    this.closeInside(false);
    if (narrow.matches) this.toggleSidebar(false);
    byId("composer-text").focus();
  }

  /** Another tab has changed a conversation: it is shown anew, unless its answer is being written here. @param {string} id */
  takeOther(id) {
    if (this.talking.running?.talk.id === id) return;
    if (this.talking.talk.id !== id) this.sidebar.render(this.store.list(), this.talking.talk.id);
    else this.talking.open(this.store.get(id) ?? newConversation());
  }

  begin() {
    this.open(newConversation(this.talking.talk.roots.length ? "" : this.talking.talk.system));
  }

  /** @param {import("./tree.js").Conversation} talk */
  async remove(talk) {
    this.talking.forget(talk);
    await this.store.remove(talk.id);
    if (this.talking.talk === talk) this.begin();
    else this.render();
  }

  /** @param {string} [focus] the id of a field */
  settings(focus) {
    const { talk } = this.talking;
    showSettings({
      settings, system: talk.system, key: api.key, problem: this.#keyProblem,
      longest: this.talking.model ? api.longest(this.talking.model) : Promise.resolve(null),
      done: ({ system, key, confirmed }) => {
        saveSettings(local, settings);
        this.theme();
        const changed = api.key !== key;
        api.key = key;
        if (system !== talk.system) {
          talk.system = system;
          if (talk.roots.length) this.store.keep(talk);
        }
        if (changed || !this.talking.model) this.#models(changed && confirmed);
      },
    });
    if (focus) byId(focus).focus();
  }

  flip() {
    settings.theme = isDark(settings.theme) ? "light" : "dark";
    saveSettings(local, settings);
    this.theme();
  }

  theme() {
    applyTheme(settings.theme);
    byId("flip").replaceChildren(icon(isDark(settings.theme) ? "sun" : "moon"));
  }

  /** @param {boolean} [open] */
  toggleSidebar(open = !document.body.classList.contains("with-sidebar")) {
    document.body.classList.toggle("with-sidebar", open);
    byId("menu").setAttribute("aria-expanded", String(open));
    byId("sidebar").inert = !open;
    byId("middle").inert = open && narrow.matches;
    if (!open && byId("sidebar").contains(document.activeElement)) byId("menu").focus();
    if (open && narrow.matches) byId("sidebar").querySelector("button").focus();
  }

  /** @param {Turn} turn */
  look(turn) {
    this.openInside(() => this.#subject(turn));
  }

  /** Token ids and positions are those of the model that wrote; another one reads the text. @param {Turn} turn @returns {import("./inside_view.js").Subject} */
  #subject(turn) {
    const { model, talk } = this.talking;
    const writer = turn.model;
    const isOwn = !writer || writer === model;
    if (turn.tokens && isOwn) return { model, writer, body: { ids: turn.tokens.ids }, position: turn.tokens.prompt - 1 };
    const body = { messages: messagesOf(talk, turn.id), answer: turn.content };
    return { model, writer, body, position: turn.usage && isOwn ? turn.usage.prompt - 1 : null };
  }

  /** @param {() => import("./inside_view.js").Subject | null} subject asked for again when another model is chosen */
  openInside(subject) {
    const first = subject();
    if (!first) return;
    this.#looked = subject;
    this.#before = /** @type {HTMLElement | null} */ (document.activeElement);
    document.body.classList.add("with-inside");
    this.inside.open(first);
  }
  /** @type {(() => import("./inside_view.js").Subject | null) | null} */
  #looked = null;
  /** @type {HTMLElement | null} */
  #before = null;

  closeInside(withFocus = true) {
    if (!this.inside.isOpen) return;
    this.inside.close();
    document.body.classList.remove("with-inside");
    if (withFocus) (this.#before?.isConnected ? this.#before : byId("composer-text")).focus();
  }

  toggleInside() {
    if (this.inside.isOpen) this.closeInside();
    else if (this.tabs.current === "completion") this.completion.lookInside();
    else if (this.tabs.current === "chat") {
      const last = shownTurns(this.talking.talk).findLast((turn) => turn.role === "assistant" && turn.content !== "");
      if (last && !this.talking.running) this.look(last);
    }
  }
}

new Page(await Store.open(allowed(() => indexedDB) ?? undefined));
