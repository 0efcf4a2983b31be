/** The models of a folder in words, from /v1/wavefold/models. */

import { bytes } from "./machine.js";

/**
 * @typedef {object} Pooled a model of the folder
 * @property {string} name
 * @property {string} kind
 * @property {string} state on disk, loading, loaded, leaving or faulty
 * @property {number} bytes on disk
 * @property {number} memory_bytes
 * @property {number} users
 * @property {number} waiting
 * @property {boolean} pinned
 * @property {string | null} last_used ISO 8601
 * @property {string | null} fault
 */
/** @typedef {{memory: {limit_bytes: number, models_bytes: number, resident_bytes: number}, loads: number, models: Pooled[]}} Pool */

const KINDS = /** @type {Record<string, string>} */ ({ official: "safetensors", gguf: "GGUF" });

/** @param {Pooled} model */
export const kindWords = ({ kind }) => KINDS[kind] ?? kind;

/** What a model is, label and value. @param {Pooled} model @param {number} now in ms @returns {[string, string][]} */
export function facts(model, now) {
  const inMemory = ["loading", "loaded", "leaving"].includes(model.state);
  return [
    ["On disk", bytes(model.bytes)],
    ["In memory", inMemory ? bytes(model.memory_bytes) : "–"],
    ["Users", String(model.users)],
    ["Waiting", String(model.waiting)],
    ["Last use", model.last_used ? ago(model.last_used, now) : "–"],
  ];
}

/** @param {string} when ISO 8601 @param {number} now in ms */
export function ago(when, now) {
  const seconds = (now - Date.parse(when)) / 1000;
  if (Number.isNaN(seconds)) return "–";
  if (seconds < 60) return "just now";
  const [count, unit] = seconds < 3600 ? [seconds / 60, "min"] : seconds < 86_400 ? [seconds / 3600, "h"] : [seconds / 86_400, "days"];
  return unit === "days" && count < 2 ? "1 day ago" : `${Math.floor(count)} ${unit} ago`;
}

/** @param {Pool["memory"]} memory @param {number} loads @returns {{words: string, share: number}} */
export function memoryWords({ limit_bytes: limit, resident_bytes: resident }, loads) {
  return { words: `${bytes(resident)} of ${bytes(limit)} in memory, ${loads} ${loads === 1 ? "load" : "loads"} so far`, share: limit ? Math.min(1, resident / limit) : 0 };
}

/** What a button does with a model now; null: it comes or goes, or cannot be used. @param {Pooled} model @returns {"load" | "unload" | null} */
export function actOf({ state }) {
  return state === "on disk" ? "load" : state === "loaded" ? "unload" : null;
}

/** What has changed between two looks, for who does not see it: "one: leaving, two: loading". @param {Map<string, string>} before states by name @param {Pooled[]} models */
export function changeWords(before, models) {
  const changed = models.filter(({ name, state }) => before.has(name) && before.get(name) !== state);
  return changed.map(({ name, state, fault }) => `${name}: ${state}${state === "faulty" && fault ? `, ${fault}` : ""}`).join("; ");
}
