/**
 * The server's endpoints that the page uses, and its errors in words.
 *
 * Addresses are relative to the page, so that the page also works below a prefix of a reverse proxy.
 */

const KEY = "wavefold.api-key";

export class ApiError extends Error {
  /** @param {string} message in words for a reader @param {number} status 0: no answer came */
  constructor(message, status = 0) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

const WORDS = /** @type {Record<number, string>} */ ({
  401: "The server asks for an API key. Enter one in the settings.",
  403: "The server does not allow this.",
  404: "The server does not know this model or address.",
  413: "This text is longer than the server accepts.",
  429: "The server has as much to do as it takes on.",
  500: "The server failed while it worked on this.",
  503: "The server is stopping or not ready.",
  507: "The server's disk is full.",
});

/** Codes of a model that cannot be loaded, and of a queue that cannot be used for now: the message says why, and the server is well. */
const SAID_IN_FULL = ["model_not_loaded", "queue_not_ready"];

/** What an answer with an error says, for a reader. @param {number} status @param {unknown} body @param {string | null} retryAfter */
export function errorWords(status, body, retryAfter = null) {
  const inner = /** @type {any} */ (body)?.error;
  const detail = typeof inner === "string" ? inner : typeof inner?.message === "string" ? inner.message : "";
  const lead = SAID_IN_FULL.includes(inner?.code) ? "" : WORDS[status] ?? (status >= 500 ? WORDS[500] : status >= 400 ? "The server refused this." : "");
  const wait = status === 429 && retryAfter ? ` Try again in ${retryAfter} s.` : "";
  if (status === 401) return lead + (detail ? ` It says: ${detail}` : "");
  return [lead + wait, detail].filter(Boolean).join(" ") || `The server answered with status ${status}.`;
}

/** Any error for a reader. @param {unknown} error */
export const problemWords = (error) => (error instanceof ApiError ? error.message : `The page failed: ${error}`);

export class Api {
  /** @type {Storage | null} */
  #session;

  /** @param {string} base @param {Storage | null} session where the key stays until the tab is closed */
  constructor(base, session) {
    this.base = base;
    this.#session = session;
  }

  get key() {
    return this.#session?.getItem(KEY) ?? "";
  }
  set key(key) {
    if (key) this.#session?.setItem(KEY, key);
    else this.#session?.removeItem(KEY);
  }

  /** @param {string} path @param {RequestInit} init @returns {Promise<Response>} with status 2xx; raises ApiError */
  async #send(path, init) {
    const headers = new Headers(init.headers);
    if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
    let response;
    try {
      response = await fetch(new URL(path, this.base), { ...init, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    throw new ApiError(errorWords(response.status, body, response.headers.get("Retry-After")), response.status);
  }

  /** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
  async get(path, signal) {
    return readJson(await this.#send(path, { signal }));
  }

  /** How many tokens a model's answer may have, or null if the server does not say. @param {string} model @returns {Promise<number | null>} */
  async longest(model) {
    try {
      const headers = { "anthropic-version": "2023-06-01" };
      const { max_tokens: most } = await readJson(await this.#send(`v1/models/${encodeURIComponent(model)}`, { headers }));
      return Number.isInteger(most) && most > 0 ? most : null;
    } catch {
      return null;
    }
  }

  /** @param {string} path @param {unknown} body @param {AbortSignal} [signal] @returns {Promise<any>} */
  async post(path, body, signal) {
    return readJson(await this.#post(path, body, {}, signal));
  }

  /** The body of a stream of events. @param {string} path @param {unknown} body @param {AbortSignal} signal */
  async stream(path, body, signal) {
    const headers = { Accept: "text/event-stream", "X-Wavefold-Progress": "1" };
    const response = await this.#post(path, body, headers, signal);
    if (!response.body) throw new ApiError("The server's answer has no body.");
    return response.body;
  }

  /** @param {string} path @param {unknown} body @param {Record<string, string>} headers @param {AbortSignal} [signal] */
  #post(path, body, headers, signal) {
    headers = { "Content-Type": "application/json", ...headers };
    return this.#send(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  /** Sends a file, which the server keeps. @param {string} path @param {File} file @param {string} purpose @returns {Promise<any>} */
  async upload(path, file, purpose) {
    const form = new FormData();
    form.append("purpose", purpose);
    form.append("file", file, file.name);
    return readJson(await this.#send(path, { method: "POST", body: form }));
  }

  /** @param {string} path */
  async remove(path) {
    await this.#send(path, { method: "DELETE" });
  }

  /** What a path has, as bytes. @param {string} path */
  async bytes(path) {
    return (await this.#send(path, {})).blob();
  }

  /** Names of the models that the server has, and what it has beside them: a folder of models, a queue. @returns {Promise<{names: string[], parts: {models?: boolean, jobs?: boolean}}>} */
  async models() {
    const { data, wavefold: parts = {} } = await this.get("v1/models");
    return { names: data.map((/** @type {{id: string}} */ model) => model.id), parts };
  }
}

/** @param {Response} response */
async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The server's answer is no JSON. Is something else on this address?");
  }
}
