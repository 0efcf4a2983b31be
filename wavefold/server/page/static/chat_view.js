/** The conversation that is open: its turns, the welcome of an empty one, the message field. */

import { byId, h, iconButton } from "./dom.js";
import { placeOf, shownTurns } from "./tree.js";
import { TurnView, grow } from "./turn_view.js";

/** @typedef {import("./talking.js").Talking} Talking */
/** @typedef {import("./tree.js").Turn} Turn */

const NEAR_PX = 80;
const STARTERS = ["What does os.path.join do?", "Write a function that reverses a list.", "How do I read a file line by line?"];

export class ChatView {
  /** @type {Map<string, TurnView>} */
  #views = new Map();
  #follows = true;

  /** @param {Talking} talking @param {{look: (turn: Turn) => void}} acts */
  constructor(talking, acts) {
    this.talking = talking;
    this.turns = byId("turns");
    this.scroll = byId("turns-scroll");
    this.area = byId("composer-text");
    this.scroll.addEventListener("scroll", () => (this.#follows = this.#isNearEnd()));
    new ResizeObserver(() => this.#toEnd()).observe(this.turns);
    this.acts = {
      again: (/** @type {Turn} */ turn) => this.#act(talking.again(turn)),
      edited: (/** @type {Turn} */ turn, /** @type {string} */ text) => this.#act(talking.edited(turn, text)),
      choose: (/** @type {Turn} */ turn, /** @type {number} */ by) => this.onChoose(turn, by),
      look: acts.look,
    };
    this.starters = h("ul", { class: "starters", "aria-label": "Examples" }, STARTERS.map((text) => h("li", {}, h("button", { type: "button", class: "starter", on: { click: () => { this.area.value = text; this.#fit(); this.area.focus(); } } }, text))));
    this.#composer();
  }
  /** @type {(turn: Turn, by: number) => void} */
  onChoose = () => {};

  /** @param {Promise<void> | undefined} done */
  #act(done) {
    this.#follows = true;
    this.#toEnd();
    this.area.focus();
    return done;
  }

  #composer() {
    const send = iconButton("send", "Send", () => this.send(), { bare: true, class: "icon-button send", id: "send" });
    const stop = iconButton("stop", "Stop", () => this.talking.stop(), { bare: true, class: "icon-button send stop", id: "stop", hidden: true });
    byId("composer-actions").append(send, stop);
    byId("composer").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
    this.area.addEventListener("input", () => this.#fit());
    this.area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.#fit();
  }

  #fit() {
    grow(this.area);
    byId("send").disabled = !this.area.value.trim();
  }

  send() {
    const text = this.area.value;
    if (!text.trim() || this.talking.running) return;
    this.area.value = "";
    this.#fit();
    this.#act(this.talking.send(text, shownTurns(this.talking.talk).at(-1)?.id ?? null));
  }

  /** Shows the path of the conversation anew. @param {{turn: string, act: string} | null} [focus] a button to focus afterwards */
  render(focus = null) {
    const { talk, running } = this.talking;
    const shown = shownTurns(talk);
    const here = running?.talk === talk;
    this.#views = new Map(shown.map((turn) => [turn.id, new TurnView(turn, placeOf(talk, turn.id), this.acts, here)]));
    for (const view of this.#views.values()) view.onShown = () => this.#toEnd();
    this.turns.replaceChildren(...Array.from(this.#views.values(), (view) => view.root));
    this.turns.lastElementChild?.classList.add("last");
    byId("talk-title").textContent = talk.title || "New conversation";
    document.title = talk.title ? `${talk.title} · Wavefold` : "Wavefold";
    byId("send").hidden = running !== null;
    byId("stop").hidden = running === null;
    this.#welcome(shown.length === 0);
    this.#toEnd();
    if (focus) this.#focus(focus);
  }

  /** @param {{turn: string, act: string}} focus */
  #focus({ turn, act }) {
    const root = this.#views.get(turn)?.root;
    const button = root?.querySelector(`[data-act=${act}]:not(:disabled)`) ?? root?.querySelector("[data-act=left]:not(:disabled), [data-act=right]:not(:disabled)");
    (button ?? root)?.focus();
  }

  /** Shows the examples, or hides them from a model that is asked other things: they are for one that knows Python. @param {boolean} shown */
  suggest(shown) {
    this.starters.hidden = !shown;
  }

  /** @param {boolean} empty */
  #welcome(empty) {
    const welcome = byId("welcome");
    welcome.hidden = !empty;
    if (!empty || welcome.firstChild) return;
    welcome.append(h("img", { src: "page/icon.svg", alt: "", width: "56", height: "56" }), h("p", { class: "welcome-title" }, "What shall we write?"),
      h("p", { class: "note" }, "Ask something, then choose ", h("strong", {}, "Look inside"), " below the answer to see what the model attended to, token by token."),
      this.starters);
  }

  /** @param {Turn} turn */
  grown(turn) {
    this.#views.get(turn.id)?.update();
  }

  /** @param {Turn} turn @param {number} read @param {number} of */
  progress(turn, read, of) {
    this.#views.get(turn.id)?.progress(read, of);
  }

  /** Opens the field of the last message of the reader. */
  editLast() {
    const last = shownTurns(this.talking.talk).findLast((turn) => turn.role === "user");
    if (last && !this.talking.running) this.#views.get(last.id)?.edit();
  }

  #isNearEnd() {
    return this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < NEAR_PX;
  }

  /** Stays at the end of a growing answer, unless the reader has scrolled away from it. */
  #toEnd() {
    if (this.#follows) this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}
