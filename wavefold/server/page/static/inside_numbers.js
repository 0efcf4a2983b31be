/**
 * What /v1/wavefold/inside says, as marks over a text.
 *
 *     tokens    0 . . . . . . . . . . . . . . . . P
 *     entries   |--4--|--4--|--4--|                   an entry stands for `ratio` tokens
 *     window                          | . . . . . |   the last tokens as they are
 *
 * A mark covers tokens [from, to) and carries attention's mass, averaged over heads. Window, entries and sink of a
 * layer make 1.
 */

/** @typedef {{id: number, text: string}} Token */
/** @typedef {{ratio: number, overlap?: boolean, count: number, chosen: number[] | null, scores: number[] | null, mass: number[]}} Entries `chosen`: best score first */
/**
 * @typedef {object} Layer
 * @property {number} layer
 * @property {"window" | "csa" | "hca"} kind
 * @property {{first: number, mass: number[]}} window
 * @property {Entries | null} entries
 * @property {number} sink_mass
 * @property {{expert: number, weight: number}[]} experts
 * @property {boolean} hashed
 */
/**
 * @typedef {object} Inside
 * @property {number} position
 * @property {string} token
 * @property {Token[]} tokens
 * @property {{id: number, text: string, probability: number}[]} top
 * @property {Layer[]} layers
 * @property {{id: number, text: string, probability: number} | null} [next] the token that follows in the text
 * @property {{guess: number, text?: string, probability: number, accepted: boolean | null} | null} mtp
 * @property {{blocks: number, prefix_hit_tokens: number} | null} cache
 */
/** @typedef {{part: "window" | "entry", number: number, from: number, to: number, mass: number, rank: number, score: number | null}} Mark */

export const BLOCK_TOKENS = 128;

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

/** How a layer's attention is shared. @param {Layer} layer */
export function shares(layer) {
  return { window: sum(layer.window.mass), entries: sum(layer.entries?.mass ?? []), sink: layer.sink_mass };
}

/** The entries that were attended to, in the order of the text; rank counts from 1, by score where an indexer chose, else by mass. @param {Layer} layer @returns {Mark[]} */
export function entryMarks(layer) {
  const { entries } = layer;
  if (!entries || entries.ratio === 0) return [];
  const chosen = entries.chosen ?? entries.mass.map((_, entry) => entry);
  const marks = chosen.map((entry, index) => ({
    part: /** @type {const} */ ("entry"), number: entry, from: entry * entries.ratio, to: (entry + 1) * entries.ratio,
    mass: entries.mass[index], rank: index + 1, score: entries.scores?.[index] ?? null,
  }));
  if (!entries.chosen) {
    const ranked = [...marks].sort((one, other) => other.mass - one.mass);
    ranked.forEach((mark, index) => (mark.rank = index + 1));
  }
  return marks.sort((one, other) => one.number - other.number);
}

/** @param {Layer} layer @returns {Mark[]} */
export function windowMarks(layer) {
  return layer.window.mass.map((mass, index) => {
    const token = layer.window.first + index;
    return { part: "window", number: token, from: token, to: token + 1, mass, rank: 0, score: null };
  });
}

/** Where a reader steps with the arrow keys: entries, then the window. @param {Layer} layer */
export const stops = (layer) => [...entryMarks(layer), ...windowMarks(layer)];

/** The text of tokens [from, to). @param {Token[]} tokens @param {number} from @param {number} to */
export function textOf(tokens, from, to) {
  return tokens.slice(Math.max(0, from), to).map((token) => token.text).join("");
}

/** 0.0312 -> "3.1 %"; small ones keep two digits that say something. @param {number} share */
export function percent(share) {
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.01) return "< 0.01 %";
  return `${value < 1 ? value.toFixed(2) : value.toFixed(1)} %`;
}

/** A mark in words. @param {Layer} layer @param {Mark} mark @param {Token[]} tokens */
export function markWords(layer, mark, tokens) {
  const text = textOf(tokens, mark.from, mark.to);
  if (mark.part === "window") return { where: `window, token ${mark.number}`, mass: percent(mark.mass), text };
  const chosen = mark.score !== null ? `, chosen ${ordinal(mark.rank)}` : "";
  const overlap = layer.entries?.overlap && mark.number > 0 ? " and those of the entry before" : "";
  return { where: `entry ${mark.number}, tokens ${mark.from} to ${mark.to - 1}${overlap}${chosen}`, mass: percent(mark.mass), text };
}

/** @param {number} rank */
const ordinal = (rank) => (rank === 1 ? "first" : `as number ${rank}`);

/** A marker of the model in letters that every font has: <｜User｜> as <|User|>. @param {string} text */
export const marker = (text) => text.replace(/<｜([^<>｜]*)｜>/g, (_, name) => `<|${name.replaceAll("▁", "_")}|>`);

/** A text with its invisible signs shown. @param {string} text */
export function visible(text) {
  const shown = marker(text).replace(/\r/g, "␍").replace(/\n/g, "↵").replace(/\t/g, "⇥");
  return shown.replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)) || "∅";
}

/** Each token's share of a layer's attention: the window's, and an entry's spread over its tokens. @param {Layer} layer @param {number} length */
export function heatOfTokens(layer, length) {
  const heat = new Float64Array(length);
  for (const { from, to, mass } of stops(layer)) {
    for (let token = from; token < Math.min(to, length); token++) heat[token] += mass / (to - from);
  }
  return heat;
}

/** Blocks of the cache: how much of each is filled, and how much of it was found in the prefix cache. @param {number} length @param {{blocks: number, prefix_hit_tokens: number}} cache */
export function blockFills(length, cache) {
  return Array.from({ length: cache.blocks }, (_, block) => {
    const first = block * BLOCK_TOKENS;
    const within = (/** @type {number} */ count) => Math.min(1, Math.max(0, (count - first) / BLOCK_TOKENS));
    return { filled: within(length), hit: within(cache.prefix_hit_tokens) };
  });
}

/**
 * The first token that ends behind so many characters of the text, which token 0, BOS, has none of: the first one that
 * was written, where a text went on from a prompt of that length.
 * @param {Token[]} tokens @param {number} characters
 */
export function firstBehind(tokens, characters) {
  let end = 0;
  for (let token = 1; token < tokens.length; token++) {
    end += tokens[token].text.length;
    if (end > characters) return token;
  }
  return tokens.length;
}

/** Which tokens a ribbon shows: at most `most`, around `at`. @param {number} count @param {number} at @param {number} most */
export function around(count, at, most) {
  const from = Math.max(0, Math.min(at - Math.floor(most * 0.7), count - most));
  return { from, to: Math.min(count, from + most) };
}
