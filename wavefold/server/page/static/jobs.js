/** Batches of the job queue in words, from /v1/batches. */

/**
 * @typedef {object} Batch
 * @property {string} id
 * @property {string} status in_progress, completed, failed or cancelled
 * @property {string} endpoint
 * @property {string} input_file_id
 * @property {string | null} output_file_id
 * @property {string | null} error_file_id
 * @property {number} created_at seconds since 1970
 * @property {{total: number, completed: number, failed: number}} request_counts
 * @property {{data: {message: string, line: number | null}[]} | null} errors why it was not made
 * @property {Own} [wavefold]
 */
/**
 * @typedef {object} Own what OpenAI's API does not have
 * @property {number} priority
 * @property {string | null} quiet_hours
 * @property {number} swaps
 * @property {number | null} left_s
 * @property {string | null} paused why it does not go on
 * @property {{model: string, total: number, completed: number, failed: number}[]} models
 */

export const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];
const STATES = /** @type {Record<string, string>} */ ({ in_progress: "running" });
const MOST_ERRORS = 5;

/** @param {Batch} batch */
export const isRunning = ({ status }) => !["completed", "failed", "cancelled", "expired"].includes(status);

/** @param {Batch} batch */
export const stateWords = (batch) => (isRunning(batch) && batch.wavefold?.paused ? "paused" : STATES[batch.status] ?? batch.status);

/** "37 of 100 done, 2 of them failed, about 3 min left". @param {Batch} batch */
export function progressWords(batch) {
  const { total, completed, failed } = batch.request_counts;
  if (!total) return "";
  const left = batch.wavefold?.left_s ?? null;
  return [`${count(completed + failed)} of ${count(total)} done`, failed ? `${count(failed)} of them failed` : "",
    isRunning(batch) && left !== null ? `${durationWords(left)} of work left` : ""].filter(Boolean).join(", ");
}

/** @param {number} number */
const count = (number) => number.toLocaleString("en");

/** @param {number} seconds */
export function durationWords(seconds) {
  if (seconds < 1) return "less than 1 s";
  if (seconds < 100) return `about ${Math.round(seconds)} s`;
  if (seconds < 100 * 60) return `about ${Math.round(seconds / 60)} min`;
  if (seconds < 72 * 3600) return `about ${Math.round(seconds / 3600)} h`;
  return `about ${Math.round(seconds / 86_400)} days`;
}

/** What a batch is, label and value. @param {Batch} batch @returns {[string, string][]} */
export function batchFacts(batch) {
  const { priority = 0, quiet_hours: quiet = null, models = [] } = batch.wavefold ?? {};
  const names = models.length === 1 ? models[0].model : models.map(({ model, total, completed, failed }) => `${model} ${count(completed + failed)} of ${count(total)}`).join(", ");
  /** @type {[string, string][]} */
  const rows = [["Added", new Date(batch.created_at * 1000).toLocaleString()], ["Endpoint", batch.endpoint]];
  if (names) rows.push([models.length === 1 ? "Model" : "Models", names]);
  if (priority) rows.push(["Priority", String(priority)]);
  if (quiet) rows.push(["Quiet hours", quiet]);
  return rows;
}

/** Why a batch was not made, the first of many reasons. @param {Batch} batch @returns {string[]} */
export function errorLines({ errors }) {
  const data = errors?.data ?? [];
  const lines = data.slice(0, MOST_ERRORS).map(({ line, message }) => (line ? `Line ${line}: ${message}` : message));
  return data.length > MOST_ERRORS ? [...lines, `and ${data.length - MOST_ERRORS} more`] : lines;
}

/** The endpoint that the first line of a file is for, or null. @param {string} start of the file */
export function endpointOf(start) {
  try {
    const { url } = JSON.parse(start.trimStart().split("\n", 1)[0]);
    return ENDPOINTS.includes(url) ? url : null;
  } catch {
    return null;
  }
}
