/**
 * Conversations kept in the browser, newest first.
 *
 * A `Shelf` holds them: IndexedDB, or this page's memory where the browser gives no storage (`Store.lasting` tells).
 * Writes of a conversation that is being written are joined: at most one in `DELAY_MS`.
 */

/** @typedef {import("./tree.js").Conversation} Conversation */
/** @typedef {{all(): Promise<Conversation[]>, put(talk: Conversation): Promise<void>, remove(id: string): Promise<void>, lasting: boolean}} Shelf */

const DELAY_MS = 800;
const NAME = "wavefold";
const TABLE = "conversations";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** @implements {Shelf} */
export class BrowserShelf {
  lasting = true;
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
    database.onversionchange = () => database.close();
  }

  /** Raises what the browser says where it gives no storage. @param {IDBFactory} factory */
  static async open(factory) {
    const request = factory.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    return new BrowserShelf(await done(request));
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return this.database.transaction(TABLE, mode).objectStore(TABLE);
  }
  async all() {
    return done(this.#table("readonly").getAll());
  }
  /** @param {Conversation} talk */
  async put(talk) {
    await done(this.#table("readwrite").put(talk));
  }
  /** @param {string} id */
  async remove(id) {
    await done(this.#table("readwrite").delete(id));
  }
}

/** @implements {Shelf} */
export class MemoryShelf {
  lasting = false;
  /** @type {Map<string, string>} */
  #kept = new Map();
  async all() {
    return Array.from(this.#kept.values(), (text) => JSON.parse(text));
  }
  /** @param {Conversation} talk */
  async put(talk) {
    this.#kept.set(talk.id, JSON.stringify(talk));
  }
  /** @param {string} id */
  async remove(id) {
    this.#kept.delete(id);
  }
}

export class Store {
  /** @type {Map<string, Conversation>} */
  #talks = new Map();
  /** @type {Map<string, number>} */
  #waiting = new Map();
  #shelf;
  /** Told of a write that failed, in words. @type {(problem: string) => void} */
  onProblem = () => {};
  /** Told that another tab has written or removed a conversation. @type {(id: string) => void} */
  onOther = () => {};
  /** @type {BroadcastChannel | null} */
  #channel = null;

  /** @param {Shelf} shelf */
  constructor(shelf) {
    this.#shelf = shelf;
  }

  /** A store with what the browser kept. @param {IDBFactory | undefined} factory */
  static async open(factory) {
    /** @type {Shelf} */
    let shelf;
    try {
      if (!factory) throw new Error("no IndexedDB");
      shelf = await BrowserShelf.open(factory);
    } catch {
      shelf = new MemoryShelf();
    }
    const store = new Store(shelf);
    await store.load();
    if (store.lasting && globalThis.BroadcastChannel) store.#join(new BroadcastChannel(NAME));
    return store;
  }

  /** Other tabs of this page tell what they have written; a conversation that is being written here stays. @param {BroadcastChannel} channel */
  #join(channel) {
    this.#channel = channel;
    channel.onmessage = async ({ data }) => {
      const id = String(data);
      if (this.#waiting.has(id)) return;
      const found = (await this.#shelf.all()).find((talk) => talk.id === id);
      if (found) this.#talks.set(id, found);
      else this.#talks.delete(id);
      this.onOther(id);
    };
  }

  /** True if conversations outlive the page. */
  get lasting() {
    return this.#shelf.lasting;
  }

  async load() {
    for (const talk of await this.#shelf.all()) this.#talks.set(talk.id, talk);
  }

  /** @returns {Conversation[]} */
  list() {
    return [...this.#talks.values()].sort((one, other) => other.updated - one.updated);
  }

  /** @param {string} id */
  get(id) {
    return this.#talks.get(id);
  }

  /** Keeps it, at once or soon. @param {Conversation} talk @param {{soon?: boolean}} [when] */
  async keep(talk, { soon = false } = {}) {
    this.#talks.set(talk.id, talk);
    const timer = this.#waiting.get(talk.id);
    if (soon) {
      if (timer === undefined) this.#waiting.set(talk.id, Number(setTimeout(() => this.keep(talk), DELAY_MS)));
      return;
    }
    clearTimeout(timer);
    this.#waiting.delete(talk.id);
    await this.#try(() => this.#shelf.put(talk));
    this.#channel?.postMessage(talk.id);
  }

  /** @param {Conversation} talk @param {string} title blank: named by its first words again */
  async rename(talk, title) {
    talk.named = title.trim() !== "";
    if (talk.named) talk.title = title.trim();
    await this.keep(talk);
  }

  /** @param {string} id */
  async remove(id) {
    clearTimeout(this.#waiting.get(id));
    this.#waiting.delete(id);
    this.#talks.delete(id);
    await this.#try(() => this.#shelf.remove(id));
    this.#channel?.postMessage(id);
  }

  /** Writes what waits: the page is leaving. */
  async flush() {
    await Promise.all([...this.#waiting.keys()].map((id) => this.keep(/** @type {Conversation} */ (this.#talks.get(id)))));
  }

  /** @param {() => Promise<void>} write */
  async #try(write) {
    try {
      await write();
    } catch (error) {
      this.onProblem(`The browser did not keep this conversation: ${error instanceof Error ? error.message : error}`);
    }
  }
}
