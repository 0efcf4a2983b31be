/** Sampling settings: their bounds, how they are kept, and the fields of a request that they become. */

/**
 * @typedef {object} Field
 * @property {string} name the field of a request
 * @property {string} label
 * @property {string} hint
 * @property {number} [least]
 * @property {number} [most]
 * @property {number} [step]
 * @property {boolean} [whole] a whole number
 */

/** A field that is left empty is not sent: the server's default holds. @type {readonly Field[]} */
export const FIELDS = [
  { name: "temperature", label: "Temperature", hint: "0 takes the likeliest token", least: 0, most: 2, step: 0.05 },
  { name: "top_p", label: "Top-p", hint: "the likeliest tokens of this total probability", least: 0.01, most: 1, step: 0.01 },
  { name: "top_k", label: "Top-k", hint: "the likeliest so many tokens; 0: all", least: 0, most: 2147483647, step: 1, whole: true },
  { name: "min_p", label: "Min-p", hint: "tokens of this share of the likeliest one", least: 0, most: 1, step: 0.01 },
  { name: "max_tokens", label: "Longest answer", hint: "in tokens", least: 1, most: 393216, step: 1, whole: true },
  { name: "seed", label: "Seed", hint: "the same number gives the same answer", least: 0, most: 4294967295, step: 1, whole: true },
];

export const THINKING = /** @type {const} */ ({
  "": "As the model does by itself", off: "Off", low: "Low", high: "High", max: "Highest",
});

/** @typedef {{values: Record<string, number>, thinking: string, theme: string}} Settings */

const KEY = "wavefold.settings";

/** @returns {Settings} */
export const defaults = () => ({ values: {}, thinking: "", theme: "" });

/** A number of a field from what was typed; "": null. Raises RangeError in words. @param {Field} field @param {string} typed */
export function valueOf(field, typed) {
  if (typed.trim() === "") return null;
  const value = Number(typed);
  const whole = !field.whole || Number.isInteger(value);
  if (!Number.isFinite(value) || !whole || value < (field.least ?? -Infinity) || value > (field.most ?? Infinity)) {
    const kind = field.whole ? "a whole number" : "a number";
    throw new RangeError(`${field.label}: ${typed} is not ${kind} from ${field.least} to ${field.most}`);
  }
  return value;
}

/** What was kept, as far as it is valid. @param {string | null | undefined} text @returns {Settings} */
export function readSettings(text) {
  const settings = defaults();
  /** @type {any} */
  let kept = null;
  try {
    kept = JSON.parse(text ?? "null");
  } catch {
    return settings;
  }
  for (const field of FIELDS) {
    try {
      const value = valueOf(field, String(kept?.values?.[field.name] ?? ""));
      if (value !== null) settings.values[field.name] = value;
    } catch {
      continue;
    }
  }
  if (typeof kept?.thinking === "string" && kept.thinking in THINKING) settings.thinking = kept.thinking;
  if (["light", "dark"].includes(kept?.theme)) settings.theme = kept.theme;
  return settings;
}

/** @param {Storage | null} storage */
export const loadSettings = (storage) => readSettings(storage?.getItem(KEY));

/** @param {Storage | null} storage @param {Settings} settings */
export function saveSettings(storage, settings) {
  try {
    storage?.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A full or forbidden storage: the settings hold until the page is closed.
  }
}

/** Fields of a chat request. @param {Settings} settings @returns {Record<string, unknown>} */
export function chatFields(settings) {
  const { values, thinking } = settings;
  if (thinking === "") return { ...values };
  if (thinking === "off") return { ...values, thinking: { type: "disabled" } };
  return { ...values, thinking: { type: "enabled" }, reasoning_effort: thinking };
}

const COMPLETION_TOKENS = 256;

/** Fields of a completion request, which knows no thinking, and whose default length is short. @param {Settings} settings @returns {Record<string, unknown>} */
export const completionFields = (settings) => ({ max_tokens: COMPLETION_TOKENS, ...settings.values });
