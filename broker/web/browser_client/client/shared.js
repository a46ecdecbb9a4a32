// One connection for all tabs of an origin.
//
// Each tab knows its own topics, the cursor up to which it has everything of them, and per topic the last id that it has seen. One
// tab leads: it holds a Web Lock, has the connection, and posts all events to a BroadcastChannel. When it closes, the browser gives
// the lock to the next. A new leader asks what each tab wants, and goes back to the oldest of their cursors. A batch says which
// cursor it continues; a tab that has an older one has missed a batch, and asks again. So no message needs to arrive.
//
// A leader that the browser has frozen keeps its lock. So tabs that hear nothing ask whether it is there, and one of them takes the
// lock away if it doesn't answer. A tab with a slow loop reads for itself until it has caught up. A tab with too many topics for the
// shared connection gets its own.

import { Connection, SILENCE_MS } from "../client.js";
import { Leader } from "./leader.js";
import { allPages, isNewer, page } from "./pages.js";

/** @import {FollowError} from "../client.js" */
/** @import {Item, Options, Sink, Source, State} from "./types.js" */
/**
 * @typedef {{ type: "batch", topics: string[], items: Item[], cursor: string, before: string } | { type: "lead" } |
 *   { type: "state", state: State } | { type: "fail", error: Error } | { type: "leave", tab: string } |
 *   { type: "want", tab: string, topics: string[], from: string } | { type: "ping" } | { type: "pong" } |
 *   { type: "alone", tab: string }} Message
 */

const LONGEST_PAUSE_MS = 30_000;
const MOST_PINGS = 4; // without an answer
const HEIR_MS = 1000; // for all tabs to hear of a new leader

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
  /** @type {Connection | null} of this tab, if its topics don't fit into the shared one */
  #own = null;
  #isReading = false; // for itself
  #pings = 0; // since a leader was heard
  /** @type {Promise<void>} */
  #entering = Promise.resolve();
  /** @type {Promise<null>} until this tab has its lock: a leader that gets it takes the tab for closed */
  #isPresent;
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
    this.#isPresent = new Promise((present) => this.#hold(`${this.name}:${this.#tab}`, () => present(null)));
    this.#lead();
    const watchdog = setInterval(() => this.#watch(), (options.silence ?? SILENCE_MS) / 8);
    this.#closed.signal.addEventListener("abort", () => clearInterval(watchdog));
  }

  /**
   * Call `then` when this tab gets the lock, and keep it.
   * @param {string} lock @param {() => void} then @param {LockOptions} how
   * @returns {Promise<boolean>} whether another tab has taken it away
   */
  async #hold(lock, then, how = { signal: this.#closed.signal }) {
    const { signal } = this.#closed;
    const keep = () => {
      if (signal.aborted) return;
      then();
      return new Promise((release) => signal.addEventListener("abort", release));
    };
    try {
      await navigator.locks.request(lock, how, keep);
    } catch (error) {
      if (signal.aborted) return false;
      if (error instanceof DOMException && error.name === "AbortError") return true;
      this.sink.fail(/** @type {Error} */ (error));
    }
    return false;
  }

  /** Lead while this tab has the lock. @param {LockOptions} [how] */
  async #lead(how, then = () => {}) {
    const begin = () => {
      this.#leader = new Leader(this);
      this.#post({ type: "lead" });
      then();
    };
    const isTaken = await this.#hold(this.name, begin, how);
    this.#leader?.close();
    this.#leader = null;
    if (isTaken && !how) this.#lead(); // one that took it has still asked for it as all do
  }

  /** Ask a silent leader whether it is there, and take its place if it isn't. */
  #watch() {
    if (this.#leader || this.#own || !this.#topics.size) return;
    if (this.#pings++ < MOST_PINGS) return this.#post({ type: "ping" });
    const takeOver = (/** @type {Lock | null} */ heir) => {
      if (heir && this.#pings > MOST_PINGS)
        return new Promise((resolve) => this.#lead({ steal: true }, () => setTimeout(resolve, HEIR_MS)));
    };
    navigator.locks.request(`${this.name}:heir`, { ifAvailable: true }, takeOver).catch((error) => this.sink.fail(error));
  }

  /** @param {string[]} topics @param {string} [since] */
  add(topics, since) {
    this.#entering = this.#entering.then(() => this.#enter(topics, since));
  }

  /** @param {string[]} topics */
  remove(topics) {
    this.#entering = this.#entering.then(() => {
      for (const topic of topics) this.#topics.delete(topic);
      if (this.#own) this.#own.remove(topics);
      else this.#want(this.cursor);
    });
  }

  close() {
    this.#post({ type: "leave", tab: this.#tab });
    this.#closed.abort();
    this.#leader?.close();
    this.#own?.close();
    this.channel.close();
  }

  /**
   * Find out where `topics` start, with a request of this tab's own: a refusal concerns this tab alone. Then ask the leader.
   * @param {string[]} topics @param {string} [since]
   */
  async #enter(topics, since) {
    if (this.#own) {
      for (const topic of topics) this.#topics.add(topic);
      return this.#own.add(topics, since);
    }
    const { since: firstSince, last } = this.#hasEntered ? {} : this.options;
    let from = this.cursor;
    if (this.#hasEntered || !from) {
      const start = last ? ["last", String(last)] : ["since", since ?? firstSince ?? "latest"];
      const kept = await this.#read((connection) => allPages(connection, topics, [start]));
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

  /**
   * Try until there is an answer; null if this is closed or refused for good.
   * @template T @param {(connection: Connection) => Promise<T | number>} get @returns {Promise<T | null>}
   */
  async #read(get) {
    for (let tries = 0; !this.#closed.signal.aborted; tries++) {
      const connection = new Connection(this.options, { ...this.sink, state: () => {} });
      let pause = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** tries) * (0.5 + Math.random() / 2);
      let why = "";
      try {
        const answer = await get(connection);
        if (typeof answer !== "number") return answer;
        [pause, why] = [answer, connection.why];
      } catch (error) {
        if (error instanceof Error && "status" in error) {
          this.close();
          this.sink.fail(error);
          return null;
        }
        why = String(error);
      } finally {
        connection.close();
      }
      this.#tell({ ...this.#state, state: "reconnecting", why, wait: Math.round(pause) });
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    return null;
  }

  /** Read page by page, as the loop makes room, until nothing is left. @param {Promise<void> | undefined} room */
  async #readForItself(room) {
    this.#isReading = true;
    for (let more = true; (more || room) && this.#topics.size; room = this.sink.room()) {
      await room;
      const topics = [...this.#topics];
      const next = await this.#read((connection) => page(connection, topics, [["lastEventId", this.cursor]]));
      if (!next) return;
      more = next.more;
      this.#takeBatch({ type: "batch", topics, items: next.items, cursor: next.cursor, before: this.cursor });
    }
    this.#isReading = false;
    if (this.#topics.size) this.#want(this.cursor);
  }

  /** From now on, this tab has a connection of its own. */
  #leaveShared() {
    /** @type {Sink} */
    const sink = {
      ...this.sink,
      state: (state) => this.#tell(state),
      deliver: (items, cursor) =>
        this.#takeBatch({ type: "batch", topics: [...this.#topics], items, cursor, before: this.cursor }),
    };
    this.#own = new Connection(this.options, sink, this.cursor);
    this.#own.add([...this.#topics]);
  }

  /** Ask for everything after `from`. @param {string} from */
  async #want(from) {
    await this.#isPresent;
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
    if (message.type === "want") return this.#leader?.want(message);
    if (message.type === "leave") return this.#leader?.leave(message.tab);
    if (message.type === "ping") return this.#leader && this.#post({ type: "pong" });
    this.#pings = 0; // the rest comes from a leader
    if (this.#own || !this.#topics.size) return;
    if (message.type === "lead") this.#want(this.cursor);
    else if (message.type === "state") this.#tell(message.state);
    else if (message.type === "batch" && !this.#isReading) this.#hear(message);
    else if (message.type === "alone" && message.tab === this.#tab) this.#leaveShared();
    else if (message.type === "fail") {
      this.close();
      this.sink.fail(message.error);
    }
  }

  /** @param {Message & { type: "batch" }} batch */
  #hear(batch) {
    this.#takeBatch(batch);
    const room = this.sink.room();
    if (room) this.#readForItself(room);
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
