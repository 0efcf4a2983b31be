/** The list of conversations: open, rename, export, delete. */

import { confirmed } from "./dialogs.js";
import { byId, h, iconButton } from "./dom.js";
import { asMarkdown } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation */
/**
 * @typedef {object} SidebarActs
 * @property {(talk: Conversation) => void} open
 * @property {(talk: Conversation, title: string) => void} rename
 * @property {(talk: Conversation) => void} remove
 */

/** Gives a file to the reader. @param {string} name @param {string | Blob} content @param {string} type */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** @param {string} title */
const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 50) || "conversation";

export class Sidebar {
  /** @param {SidebarActs} acts */
  constructor(acts) {
    this.acts = acts;
    this.list = byId("talks");
  }

  /** @param {Conversation[]} talks @param {string} current */
  render(talks, current) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement?.closest("li")?.dataset.talk : undefined;
    this.list.replaceChildren(...talks.map((talk) => this.#item(talk, talk.id === current)));
    if (focused) this.list.querySelector(`[data-talk="${CSS.escape(focused)}"] .talk`)?.focus();
  }

  /** @param {Conversation} talk @param {boolean} current */
  #item(talk, current) {
    const title = talk.title || "New conversation";
    const open = h("button", { type: "button", class: "talk", "aria-current": current ? "true" : undefined, on: { click: () => this.acts.open(talk) } }, title);
    const item = h("li", { "data-talk": talk.id, class: current ? "current" : "" }, open,
      h("span", { class: "talk-actions" },
        iconButton("edit", `Rename ${title}`, () => this.#rename(item, talk), { bare: true }),
        iconButton("save", `Export ${title}`, () => this.#export(item, talk), { bare: true }),
        iconButton("trash", `Delete ${title}`, () => this.#remove(talk, title), { bare: true })));
    return item;
  }

  /** @param {HTMLElement} item @param {Conversation} talk */
  #rename(item, talk) {
    const input = h("input", { class: "talk-name", "aria-label": "New name", value: talk.title, maxlength: "120" });
    let over = false;
    const end = (/** @type {boolean} */ keep) => {
      if (over) return;
      over = true;
      this.acts.rename(talk, keep ? input.value : talk.title);
      this.list.querySelector(`[data-talk="${CSS.escape(talk.id)}"] .talk`)?.focus();
    };
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") end(true);
      if (event.key !== "Escape") return;
      event.preventDefault();
      end(false);
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.select();
  }

  /** @param {HTMLElement} item @param {Conversation} talk */
  #export(item, talk) {
    const place = item.querySelector(".export");
    if (place) {
      place.remove();
      return;
    }
    const button = (/** @type {string} */ label, /** @type {() => void} */ act) =>
      h("button", { type: "button", class: "button small", on: { click: () => { act(); item.querySelector(".export")?.remove(); } } }, label);
    const name = fileName(talk.title);
    const choice = h("span", { class: "export", role: "group", "aria-label": "Export as" },
      button("Markdown", () => download(`${name}.md`, asMarkdown(talk), "text/markdown")),
      button("JSON, all versions", () => download(`${name}.json`, JSON.stringify(talk, null, 2), "application/json")));
    item.append(choice);
    choice.querySelector("button").focus();
  }

  /** @param {Conversation} talk @param {string} title */
  async #remove(talk, title) {
    if (await confirmed(`Delete “${title}”?`, "Delete")) this.acts.remove(talk);
  }
}
