/** An answer as it arrives: chunks of /v1/chat/completions or /v1/completions put together. */

import { ApiError, errorWords } from "./api.js";
import { EventParser, progressOf, readEvents } from "./sse.js";

/** @typedef {import("./tree.js").Usage} Usage */
/** @typedef {import("./tree.js").Tokens} Tokens */
/**
 * @typedef {object} Listener
 * @property {(read: number, of: number) => void} [progress] tokens of the prompt that are read
 * @property {(text: string) => void} [reasoning]
 * @property {(text: string) => void} [text]
 * @property {(tokens: Tokens | null) => void} [tokens] of the prompt and of the answer so far
 */
/** @typedef {{finish: string, usage: Usage | null}} Outcome */

/**
 * Posts a request with `stream: true` and listens until its end.
 * Raises ApiError; AbortError where the signal ended it. What came before has reached the listener.
 * @param {import("./api.js").Api} api
 * @param {"v1/chat/completions" | "v1/completions"} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @param {Listener} listener
 * @returns {Promise<Outcome>}
 */
export async function streamAnswer(api, path, body, signal, listener) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true }, return_token_ids: true };
  const gathering = new Gathering(listener);
  const parser = new EventParser((event) => gathering.event(event.data), (comment) => gathering.comment(comment));
  const source = await api.stream(path, asked, signal);
  try {
    await readEvents(source, parser);
  } catch (error) {
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    if (error instanceof ApiError) throw error;
    throw new ApiError("The connection broke off in the middle of the answer.");
  }
  return gathering.outcome();
}

/** Tokens of a text that the server looks into, at most. */
const MOST_TOKENS = 16384;

export class Gathering {
  #listener;
  #finish = "";
  #done = false;
  /** @type {Usage | null} */
  #usage = null;
  #begin = 0;
  /** @type {Tokens | null} */
  #tokens = null;

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
  }

  /** @param {string} comment */
  comment(comment) {
    const progress = progressOf(comment);
    if (progress) this.#listener.progress?.(progress.read, progress.of);
  }

  /** @param {string} data */
  event(data) {
    if (data === "[DONE]") {
      this.#done = true;
      return;
    }
    const chunk = parsed(data);
    if (chunk.error) throw new ApiError(errorWords(0, chunk));
    const choice = chunk.choices?.[0];
    this.#gather(chunk.prompt_token_ids ?? choice?.prompt_token_ids, choice?.token_ids);
    const reasoning = choice?.delta?.reasoning_content;
    const text = choice?.delta?.content ?? choice?.text;
    if (reasoning || text) this.#begin ||= performance.now();
    if (reasoning) this.#listener.reasoning?.(reasoning);
    if (text) this.#listener.text?.(text);
    if (choice?.finish_reason) this.#finish = choice.finish_reason;
    if (chunk.usage) this.#usage = usageOf(chunk.usage, this.#begin ? (performance.now() - this.#begin) / 1000 : 0);
  }

  /** @param {number[] | undefined} prompt the first chunk has it @param {number[] | undefined} ids that are new */
  #gather(prompt, ids) {
    if (prompt) this.#tokens = { prompt: prompt.length, ids: [...prompt] };
    if (!this.#tokens || !(prompt || ids?.length)) return;
    this.#tokens.ids.push(...(ids ?? []));
    if (this.#tokens.ids.length > MOST_TOKENS) this.#tokens = null;
    this.#listener.tokens?.(this.#tokens);
  }

  /** @returns {Outcome} */
  outcome() {
    if (!this.#done && !this.#finish) throw new ApiError("The connection ended in the middle of the answer.");
    return { finish: this.#finish || "stop", usage: this.#usage };
  }
}

/** @param {string} data @returns {any} */
function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent an event that is no JSON.");
  }
}

/** @param {any} usage as the protocol writes it @param {number} seconds from the first token to the last @returns {Usage} */
export function usageOf(usage, seconds) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? usage.prompt_cache_hit_tokens ?? 0;
  return { prompt: usage.prompt_tokens ?? 0, completion: usage.completion_tokens ?? 0, cached, seconds };
}

/** How far a prompt has been read, in tokens. @param {number} read @param {number} of */
export const readingWords = (read, of) => `Reading ${read.toLocaleString("en")} of ${of.toLocaleString("en")} tokens`;

const counted = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
/** @param {number} count @param {string} one */
const some = (count, one) => `${counted.format(count)} ${one}${count === 1 ? "" : "s"}`;
const FINISHES = /** @type {Record<string, string>} */ ({
  length: "cut at the longest answer", stopped: "stopped", edited: "edited by you", content_filter: "filtered", tool_calls: "asks for a tool",
});

/** What an answer cost, in words. @param {{finish: string, usage: Usage | null}} turn @returns {string} */
export function costWords({ finish, usage }) {
  const parts = [];
  if (usage) {
    parts.push(some(usage.completion, "token"));
    if (usage.seconds > 0 && usage.completion > 1) parts.push(`${((usage.completion - 1) / usage.seconds).toFixed(1)} a second`);
    parts.push(`prompt ${counted.format(usage.prompt)}${usage.cached ? `, ${counted.format(usage.cached)} from the cache` : ""}`);
  }
  if (FINISHES[finish]) parts.push(FINISHES[finish]);
  return parts.join(" · ");
}
