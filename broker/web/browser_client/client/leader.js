// The connection that tabs share, in the tab that leads.

import { Connection } from "../client.js";
import { isNewer } from "./pages.js";

/** @import {Message, SharedConnection} from "./shared.js" */
/** @import {Item, Sink, State} from "./types.js" */

const COALESCE_MS = 20; // wants of many tabs make one new connection
const MOST_TOPICS = 32; // of one connection

/** The tab that has the connection. */
export class Leader {
  /** @type {Map<string, Set<string>>} topics, by tab */
  #wanted = new Map();
  #from = ""; // the oldest cursor that is asked for
  /** @type {State | null} */
  #state = null;
  #timer = 0;
  #closed = new AbortController();

  /** @param {SharedConnection} shared */
  constructor(shared) {
    this.shared = shared;
    /** @type {Sink} */
    const sink = {
      deliver: (items, cursor, before) => this.#deliver(items, cursor, before),
      state: (state) => this.#setState(state),
      fail: (error) => this.#post({ type: "fail", error }),
      room: () => undefined,
    };
    this.connection = new Connection(shared.options, sink);
  }

  close() {
    clearTimeout(this.#timer);
    this.#closed.abort();
    this.connection.close();
  }

  /** @param {State} state */
  #setState(state) {
    if (["idle", "ended"].includes(state.state) || JSON.stringify(state) === JSON.stringify(this.#state)) return;
    this.#state = state;
    this.#post({ type: "state", state });
  }

  /** @param {Message} message */
  #post(message) {
    this.shared.post(message);
  }

  /** @param {{ tab: string, topics: string[], from: string }} want */
  want({ tab, topics, from }) {
    if (!this.#wanted.has(tab)) {
      const { signal } = this.#closed;
      navigator.locks.request(`${this.shared.name}:${tab}`, { signal }, () => this.leave(tab)).catch(() => {}); // aborted by `close`
    }
    this.#wanted.set(tab, new Set(topics));
    if (this.#union().size > MOST_TOPICS) {
      this.#post({ type: "alone", tab });
      return this.leave(tab);
    }
    if (from && (!this.#from || isNewer(this.#from, from))) this.#from = from;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#retarget(), COALESCE_MS);
  }

  /** @param {string} tab */
  leave(tab) {
    if (this.#wanted.delete(tab)) this.#retarget();
  }

  #union() {
    return new Set([...this.#wanted.values()].flatMap((topics) => [...topics]));
  }

  #retarget() {
    const { connection } = this;
    const union = this.#union();
    const removed = [...connection.topics].filter((topic) => !union.has(topic));
    const added = [...union].filter((topic) => !connection.topics.has(topic));
    const from = this.#from;
    this.#from = "";
    if (removed.length) connection.remove(removed);
    const isBehind = from !== "" && isNewer(connection.cursor, from);
    if (!connection.startedAt && (isBehind || !connection.cursor)) connection.cursor = from;
    if (added.length || isBehind) connection.add(added, undefined, from);
    if (this.#state) this.#post({ type: "state", state: this.#state });
  }

  /** @param {Item[]} items @param {string} cursor @param {string} before */
  #deliver(items, cursor, before) {
    const topics = [...this.connection.topics];
    for (const item of items)
      if (item.kind === "end") {
        topics.push(item.topic);
        for (const wanted of this.#wanted.values()) wanted.delete(item.topic);
      }
    this.#post({ type: "batch", topics, items, cursor, before });
  }
}
