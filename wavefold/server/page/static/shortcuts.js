/** Keys of the page. All hold a modifier or Escape, so that none is in the way of typing or of a screen reader. */

/** @typedef {{keys: string, does: string, act: string}} Shortcut `keys` as shown; `act`: its name */

/** @type {readonly (Shortcut & {code: string, ctrl?: boolean, alt?: boolean, shift?: boolean})[]} */
export const SHORTCUTS = [
  { keys: "Ctrl /", does: "Show these keys", act: "keys", code: "Slash", ctrl: true },
  { keys: "Escape", does: "Stop the answer; else close what is open", act: "escape", code: "Escape" },
  { keys: "Alt Shift N", does: "New conversation", act: "new", code: "KeyN", alt: true, shift: true },
  { keys: "Alt Shift M", does: "To the message field", act: "message", code: "KeyM", alt: true, shift: true },
  { keys: "Alt Shift E", does: "Edit my last message", act: "edit", code: "KeyE", alt: true, shift: true },
  { keys: "Alt Shift R", does: "Answer again", act: "again", code: "KeyR", alt: true, shift: true },
  { keys: "Alt Shift I", does: "Look inside the last answer, or close it", act: "inside", code: "KeyI", alt: true, shift: true },
  { keys: "Alt Shift S", does: "Settings", act: "settings", code: "KeyS", alt: true, shift: true },
  { keys: "Alt Shift L", does: "Show or hide the conversations", act: "sidebar", code: "KeyL", alt: true, shift: true },
  { keys: "Alt Shift C", does: "Chat or completion", act: "tab", code: "KeyC", alt: true, shift: true },
  { keys: "Alt Shift D", does: "Compare, where the server has several models", act: "compare", code: "KeyD", alt: true, shift: true },
  { keys: "Alt Shift O", does: "Models, where the server has a folder of them", act: "models", code: "KeyO", alt: true, shift: true },
  { keys: "Alt Shift J", does: "Jobs, where the server has a queue", act: "jobs", code: "KeyJ", alt: true, shift: true },
];

/** Keys within a part of the page, for the list. @type {readonly {keys: string, does: string}[]} */
export const OTHER_KEYS = [
  { keys: "Enter", does: "Send the message" },
  { keys: "Shift Enter", does: "A new line in the message" },
  { keys: "Ctrl Enter", does: "Complete, or save an edited turn" },
  { keys: "← →", does: "In Look inside: the next token, or the next entry of a layer" },
  { keys: "↑ ↓", does: "In Look inside: the layer above or below" },
  { keys: "Home End", does: "The first, the last" },
  { keys: "PgUp PgDn", does: "A tenth further" },
];

/** The shortcut that was pressed, or undefined. @param {KeyboardEvent} event */
export function pressed(event) {
  if (event.isComposing) return undefined;
  const ctrl = event.ctrlKey || event.metaKey;
  return SHORTCUTS.find((one) => (one.code === event.code || (one.act === "keys" && event.key === "/" && ctrl))
    && Boolean(one.ctrl) === ctrl && Boolean(one.alt) === event.altKey && (one.act === "keys" || Boolean(one.shift) === event.shiftKey));
}

/** @param {Record<string, () => void>} acts by the names above; an absent one does nothing */
export function listenForShortcuts(acts) {
  document.addEventListener("keydown", (event) => {
    const shortcut = pressed(event);
    if (!shortcut || !acts[shortcut.act] || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") && shortcut.act !== "keys") return;
    if (shortcut.act !== "escape") event.preventDefault();
    acts[shortcut.act]();
  });
}
