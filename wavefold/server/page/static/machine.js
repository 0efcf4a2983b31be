/** The machine in words, from /v1/wavefold/machine. */

/**
 * @typedef {object} Machine
 * @property {string} [model]
 * @property {number | null} [tokens_per_s]
 * @property {number | null} [bound_tokens_per_s]
 * @property {number | null} [bytes_read]
 * @property {{resident_bytes: number, limit_bytes: number}} [memory]
 * @property {{running: number, waiting: number}} [requests]
 * @property {{used: number, total: number}} [prefix_blocks]
 * @property {{guessed: number, right: number}} [drafts] guesses that were verified
 */

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** 1234567 -> "1.2 MB". @param {number} count */
export function bytes(count) {
  let unit = 0;
  while (count >= 1000 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? count.toFixed(0) : count.toFixed(1)} ${UNITS[unit]}`;
}

/** Rows of a panel: a label, a value, and a share from 0 to 1 where there is a bar. @param {Machine} machine @returns {{label: string, value: string, share: number | null}[]} */
export function machineRows(machine) {
  const rows = [];
  const speed = machine.tokens_per_s ?? null;
  const bound = machine.bound_tokens_per_s ?? null;
  const speedWords = speed === null ? "no answer yet" : `${speed.toFixed(1)} tokens/s`;
  rows.push({
    label: "Speed", value: bound === null ? speedWords : `${speedWords} of at most ${bound.toFixed(1)}`,
    share: bound && speed !== null ? Math.min(1, speed / bound) : null,
  });
  if (machine.requests) rows.push({ label: "Requests", value: `${machine.requests.running} running, ${machine.requests.waiting} waiting`, share: null });
  if (machine.prefix_blocks) {
    const { used, total } = machine.prefix_blocks;
    rows.push({ label: "Blocks of the cache", value: `${used} of ${total}`, share: total ? used / total : null });
  }
  if (machine.drafts?.guessed) {
    const { guessed, right } = machine.drafts;
    rows.push({ label: "Guesses", value: `${right} of ${guessed} accepted`, share: right / guessed });
  }
  if (machine.memory) {
    const { resident_bytes: resident, limit_bytes: limit } = machine.memory;
    rows.push({ label: "Memory", value: `${bytes(resident)} of ${bytes(limit)}`, share: resident / limit });
  }
  if (typeof machine.bytes_read === "number") rows.push({ label: "Read from disk", value: bytes(machine.bytes_read), share: null });
  return rows;
}
