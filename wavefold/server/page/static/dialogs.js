/** Dialogs on the browser's own `<dialog>`, which keeps the focus inside and gives it back. */

import { FIELDS, THINKING, valueOf } from "./settings.js";
import { h, iconButton } from "./dom.js";
import { OTHER_KEYS, SHORTCUTS } from "./shortcuts.js";

/** @param {string} title @param {string} name its class @param {Node[]} content @returns {HTMLDialogElement} */
function opened(title, name, content) {
  const heading = h("h2", { id: `dialog-${name}` }, title);
  const dialog = h("dialog", { class: `dialog ${name}`, "aria-labelledby": heading.id },
    h("header", {}, heading, iconButton("close", "Close", () => dialog.close(), { bare: true })), ...content);
  dialog.addEventListener("click", (/** @type {MouseEvent} */ event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export function showKeys() {
  if (document.querySelector("dialog.keys")) return;
  const row = (/** @type {{keys: string, does: string}} */ { keys, does }) =>
    h("tr", {}, h("td", {}, keys.split(" ").flatMap((key) => [h("kbd", {}, key), " "])), h("td", {}, does));
  const table = h("table", {}, h("thead", { class: "visually-hidden" }, h("tr", {}, h("th", {}, "Keys"), h("th", {}, "What they do"))),
    h("tbody", {}, SHORTCUTS.map(row), OTHER_KEYS.map(row)));
  opened("Keys", "keys", [table, h("p", { class: "note" }, "On a Mac, Ctrl is Command and Alt is Option.")]);
}

/** @param {string} question @param {string} yes @param {string} [no] @returns {Promise<boolean>} */
export function confirmed(question, yes, no = "Cancel") {
  return new Promise((resolve) => {
    let answer = false;
    const cancel = h("button", { type: "button", class: "button", on: { click: () => dialog.close() } }, no);
    const act = h("button", { type: "button", class: "button danger", on: { click: () => { answer = true; dialog.close(); } } }, yes);
    const dialog = opened(question, "confirm", [h("footer", {}, cancel, act)]);
    dialog.addEventListener("close", () => resolve(answer));
    cancel.focus();
  });
}

/**
 * @typedef {object} SettingsPlace
 * @property {import("./settings.js").Settings} settings changed in place
 * @property {string} system the conversation's
 * @property {string} key
 * @property {Promise<number | null>} longest how many tokens the server allows an answer
 * @property {string} [problem] what the server has against the key
 * @property {(changed: {system: string, key: string, confirmed: boolean}) => void} done `confirmed`: by Done or Enter
 */

/** @param {SettingsPlace} place */
export function showSettings(place) {
  if (document.querySelector("dialog.settings")) return;
  const system = h("textarea", { id: "set-system", rows: "4", value: place.system });
  const key = h("input", { id: "set-key", type: "password", autocomplete: "off", spellcheck: "false", value: place.key });
  const problem = h("p", { class: "problem", id: "set-key-problem", role: "alert" }, place.problem ?? "");
  if (place.problem) key.setAttribute("aria-invalid", "true");
  const inputs = FIELDS.map((field) => numberInput({ ...field }, place.settings.values[field.name]));
  place.longest.then((most) => {
    const longest = inputs.find(({ field }) => field.name === "max_tokens");
    if (most === null || !longest) return;
    longest.field.most = most;
    longest.row.querySelector(".note").textContent = `in tokens, with the prompt at most ${most.toLocaleString("en")}`;
  });
  const thinking = choice("set-thinking", Object.entries(THINKING), place.settings.thinking);
  const theme = choice("set-theme", [["", "As the system"], ["light", "Light"], ["dark", "Dark"]], place.settings.theme);
  const form = h("form", { method: "dialog", novalidate: true },
    group("This conversation", labelled("System text", system, "What the model is told before the first message")),
    group("Sampling", h("div", { class: "pair" }, inputs.map(({ row }) => row)), labelled("Thinking", thinking, "Of models that think before they answer"),
      h("p", { class: "note" }, "An empty field is left to the server.")),
    group("This page", labelled("API key", key, "Kept until this tab is closed, sent to this server alone", problem), labelled("Colours", theme, "")),
    h("footer", {}, h("button", { type: "submit", class: "button main-button", value: "done" }, "Done")));
  const dialog = opened("Settings", "settings", [form]);
  system.focus();
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    if (!inputs.map(({ check }) => check()).every(Boolean)) {
      event.preventDefault();
      form.querySelector("[aria-invalid=true]").focus();
    }
  });
  dialog.addEventListener("close", () => {
    for (const { field, value } of inputs) {
      const number = value();
      if (number === null) delete place.settings.values[field.name];
      else if (number !== undefined) place.settings.values[field.name] = number;
    }
    place.settings.thinking = thinking.value;
    place.settings.theme = theme.value;
    place.done({ system: system.value, key: key.value.trim(), confirmed: dialog.returnValue === "done" });
  });
}

/** @param {import("./settings.js").Field} field @param {number | undefined} kept */
function numberInput(field, kept) {
  const id = `set-${field.name}`;
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "alert" });
  const input = h("input", {
    id, type: "text", inputmode: field.whole ? "numeric" : "decimal", autocomplete: "off", placeholder: "server's",
    value: kept === undefined ? "" : String(kept),
  });
  /** The number, null for none, undefined for one that is refused. @returns {number | null | undefined} */
  const value = () => {
    try {
      return valueOf(field, input.value);
    } catch {
      return undefined;
    }
  };
  const check = () => {
    try {
      valueOf(field, input.value);
      problem.textContent = "";
    } catch (error) {
      problem.textContent = /** @type {Error} */ (error).message;
    }
    input.setAttribute("aria-invalid", String(problem.textContent !== ""));
    return problem.textContent === "";
  };
  input.addEventListener("change", check);
  // A problem goes while one types: gone with the focus, it would move the button that is being pressed.
  input.addEventListener("input", () => problem.textContent && check());
  return { field, value, check, row: labelled(field.label, input, field.hint, problem) };
}

/** @param {string} title @param {...Node} content */
const group = (title, ...content) => h("fieldset", {}, h("legend", {}, title), ...content);

/** @param {string} label @param {HTMLElement} control @param {string} hint @param {HTMLElement} [problem] */
export function labelled(label, control, hint, problem) {
  const told = hint ? h("p", { class: "note", id: `${control.id}-hint` }, hint) : null;
  control.setAttribute("aria-describedby", [told?.id, problem?.id].filter(Boolean).join(" "));
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, told, problem ?? null);
}

/** @param {string} id @param {string[][]} choices @param {string} chosen @returns {HTMLSelectElement} */
function choice(id, choices, chosen) {
  const options = choices.map(([value, label]) => h("option", { value, selected: value === chosen }, label));
  return h("select", { id }, options);
}
