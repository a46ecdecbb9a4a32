// One connection for all tabs of an origin.
//
// Each tab knows its own topics, the cursor up to which it has everything of them, and per topic the last id that it has seen. One
// tab leads: it holds a Web Lock, has the connection, and posts all events to a BroadcastChannel. When it closes, the browser gives
// the lock to the next. A new leader asks what each tab wants, and goes back to the oldest of their cursors. A batch says which
// cursor it continues; a tab that has an older one has missed a batch, and asks again. So no message needs to arrive.

import { Connection } from "../client.js";
import { allPages, isNewer } from "./pages.js";

/** @import {FollowError} from "../client.js" */
/** @import {Item, Options, Sink, Source, State} from "./types.js" */
/**
 * @typedef {{ type: "batch", topics: string[], items: Item[], cursor: string, before: string } | { type: "lead" } |
 *   { type: "state", state: State } | { type: "fail", error: Error } | { type: "leave", tab: string } |
 *   { type: "want", tab: string, topics: string[], from: string }} Message
 */

const COALESCE_MS = 20; // wants of many tabs make one new connection
const LONGEST_PAUSE_MS = 30_000;

/** A tab's share in the connection. @implements {Source} */
export class SharedConnection {
  #tab = Math.random().toString(36).slice(2);
  #topics = new Set();
  /** @type {Map<string, string>} by topic, the last id that the tab has seen */
  #seen = new Map();
  #hasEntered = false;
  #closed = new AbortController();
  /** @type {Leader | null} */
  #leader = null;
  /** @type {Promise<void>} */
  #entering = Promise.resolve();
  /** @type {State} */
  #state = { state: "connecting", why: "", wait: 0, transport: "stream" };

  /** @param {Options} options @param {Sink} sink @param {string} cursor */
  constructor(options, sink, cursor) {
    this.options = options;
    this.sink = sink;
    this.cursor = cursor;
    this.name = `broker:${options.url ?? ""}:${options.shared}`;
    this.channel = new BroadcastChannel(this.name);
    this.channel.onmessage = ({ data }) => this.#receive(data);
    globalThis.addEventListener?.("pageshow", ({ persisted }) => persisted && this.#want(this.cursor), { signal: this.#closed.signal });
    this.#hold(`${this.name}:${this.#tab}`, () => {});
    this.#hold(this.name, () => {
      this.#leader = new Leader(this);
      this.#post({ type: "lead" });
    });
  }

  /** Call `then` when this tab gets the lock, and keep it. @param {string} lock @param {() => void} then */
  #hold(lock, then) {
    const { signal } = this.#closed;
    const keep = () => {
      then();
      return new Promise((release) => signal.addEventListener("abort", release));
    };
    navigator.locks.request(lock, { signal }, keep).catch((error) => signal.aborted || this.sink.fail(error));
  }

  /** @param {string[]} topics @param {string} [since] */
  add(topics, since) {
    this.#entering = this.#entering.then(() => this.#enter(topics, since));
  }

  /** @param {string[]} topics */
  remove(topics) {
    this.#entering = this.#entering.then(() => {
      for (const topic of topics) this.#topics.delete(topic);
      this.#want(this.cursor);
    });
  }

  close() {
    this.#post({ type: "leave", tab: this.#tab });
    this.#closed.abort();
    this.#leader?.close();
    this.channel.close();
  }

  /**
   * Find out where `topics` start, with a request of this tab's own: a refusal concerns this tab alone. Then ask the leader.
   * @param {string[]} topics @param {string} [since]
   */
  async #enter(topics, since) {
    const { since: firstSince, last } = this.#hasEntered ? {} : this.options;
    let from = this.cursor;
    if (this.#hasEntered || !from) {
      const start = last ? ["last", String(last)] : ["since", since ?? firstSince ?? "latest"];
      const kept = await this.#read(topics, [start]);
      if (!kept) return;
      from = kept.cursor;
      this.cursor ||= from;
      for (const topic of topics) this.#topics.add(topic);
      this.#take(kept.items);
      for (const topic of topics) if (this.#topics.has(topic)) this.#seen.set(topic, from);
    } else for (const topic of topics) this.#topics.add(topic);
    this.#hasEntered = true;
    if (this.#topics.size) this.#want(from);
    else this.#tell({ ...this.#state, state: "ended" });
  }

  /** @param {string[]} topics @param {string[][]} query */
  async #read(topics, query) {
    for (let tries = 0; !this.#closed.signal.aborted; tries++) {
      const connection = new Connection(this.options, { ...this.sink, state: () => {} });
      try {
        return await allPages(connection, topics, query);
      } catch (error) {
        if (error instanceof Error && "status" in error) {
          this.close();
          this.sink.fail(error);
          return null;
        }
        const pause = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** tries) * (0.5 + Math.random() / 2);
        this.#tell({ ...this.#state, state: "reconnecting", why: String(error), wait: Math.round(pause) });
        await new Promise((resolve) => setTimeout(resolve, pause));
      } finally {
        connection.close();
      }
    }
    return null;
  }

  /** Ask for everything after `from`. @param {string} from */
  #want(from) {
    this.#post({ type: "want", tab: this.#tab, topics: [...this.#topics], from });
  }

  /** Post to all tabs, this one included. @param {Message} message */
  #post(message) {
    if (this.#closed.signal.aborted) return;
    this.channel.postMessage(message);
    this.#receive(message);
  }

  /** @param {Message} message */
  #receive(message) {
    if (message.type === "lead" && this.#topics.size) this.#want(this.cursor);
    else if (message.type === "want") this.#leader?.want(message);
    else if (message.type === "leave") this.#leader?.leave(message.tab);
    else if (message.type === "state" && this.#topics.size) this.#tell(message.state);
    else if (message.type === "batch" && this.#topics.size) this.#takeBatch(message);
    else if (message.type === "fail" && this.#topics.size) {
      this.close();
      this.sink.fail(message.error);
    }
  }

  /** For the leader. @param {Message} message */
  post(message) {
    this.#post(message);
  }

  /** @param {State} state */
  #tell(state) {
    this.#state = state;
    this.sink.state(state);
  }

  /** @param {Message & { type: "batch" }} batch */
  #takeBatch({ topics, items, cursor, before }) {
    const isCovered = [...this.#topics].every((topic) => topics.includes(topic));
    if (isCovered && isNewer(before, this.cursor)) return this.#want(this.cursor); // a batch is missing
    if (items.some((item) => item.kind === "gap" && item.reason === "unknown-id")) {
      this.#seen.clear(); // the store went back: its new ids may be older
      this.cursor = "";
    }
    if (isCovered && isNewer(cursor, this.cursor)) this.cursor = cursor;
    this.#take(items);
    if (!this.#topics.size) this.#tell({ ...this.#state, state: "ended" });
  }

  /** @param {Item[]} items */
  #take(items) {
    const taken = items.filter((item) => {
      if (!this.#topics.has(item.topic)) return false;
      if (item.kind === "gap" || item.kind === "cancel" || !item.id) return true;
      if (!isNewer(item.id, this.#seen.get(item.topic) ?? "")) return false;
      this.#seen.set(item.topic, item.id);
      return true;
    });
    for (const item of taken) if (item.kind === "end") this.#topics.delete(item.topic);
    this.sink.deliver(taken, this.cursor, this.cursor);
  }
}

/** The tab that has the connection. */
class Leader {
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
    if (from && (!this.#from || isNewer(this.#from, from))) this.#from = from;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#retarget(), COALESCE_MS);
  }

  /** @param {string} tab */
  leave(tab) {
    if (this.#wanted.delete(tab)) this.#retarget();
  }

  #retarget() {
    const { connection } = this;
    const union = new Set([...this.#wanted.values()].flatMap((topics) => [...topics]));
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
