// Follows topics of the broker from a browser: every event once and in order, or word of a gap.
// It uses fetch, not EventSource: fetch sends a token as a header, tells why it was refused, and shows heartbeats, so that a
// dead connection is noticed. `client/` has the rest, loaded when needed.

/** @import {BrokerEvent, Item, Options, Sink, Source, State} from "./client/types.js" */

const FIRST_BYTE_MS = 4000; // the broker sends bytes within 1 s; a path that brings none holds streams back
export const SILENCE_MS = 45_000; // three heartbeats
const LONGEST_PAUSE_MS = 30_000;
const MAX_EVENT_CHARS = 1 << 25;
const AGAIN = new Error("connect again");

/** The broker refused for good. */
export class FollowError extends Error {
  /** @param {string} message */
  constructor(message, status = 0, code = "") {
    super(message);
    this.name = "FollowError";
    this.status = status;
    this.code = code;
  }
}

/** Decodes an event stream (WHATWG HTML §9.2.6) that arrives in parts. */
export class EventParser {
  lastEventId = "";
  retry = NaN; // in ms
  commented = false; // a stream begins with a comment, a refusal doesn't
  #rest = "";
  #afterCr = false;
  #data = [];
  #type = "";
  #id = "";
  #size = 0;

  /** @param {string} text */
  push(text) {
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    else if (!text) return [];
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() ?? "";
    const events = [];
    for (const line of lines) {
      if (line) {
        this.#field(line);
        continue;
      }
      if (this.#data.length) events.push({ type: this.#type, data: this.#data.join("\n"), id: this.#id });
      this.lastEventId = this.#id;
      this.#data = [];
      this.#type = "";
      this.#size = 0;
    }
    if (this.#size + this.#rest.length > MAX_EVENT_CHARS) throw new FollowError("An event is too large.");
    return events;
  }

  #field(line) {
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name) this.#size += line.length;
    else this.commented = true;
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^\d{1,9}$/.test(value)) this.retry = Number(value);
  }
}

/** One connection. It comes back until all its topics have ended, or it is refused for good. */
export class Connection {
  /** @type {State["transport"]} */
  transport = "stream";
  /** @type {Set<string>} */
  topics = new Set();
  /** @type {any[]} */
  joining = [];
  why = "";
  #running = false;
  #life = new AbortController();
  #abort = new AbortController();
  #wake = () => {};
  #tries = 0;
  #retry = 1000; // until the broker says another
  startedAt = 0;
  #heardAt = 0; // when bytes arrived; 0 while none are awaited
  #tokens;
  #refused = false;

  /** @param {Options} options @param {Sink} sink */
  constructor(options, sink, cursor = "") {
    this.cursor = cursor;
    this.options = options;
    this.sink = sink;
    this.url = String(options.url ?? new URL(".", import.meta.url)).replace(/\/*$/, "/");
    this.silence = options.silence ?? SILENCE_MS;
    for (const type of ["online", "pageshow", "visibilitychange"])
      globalThis.addEventListener?.(type, this.#onWake, { signal: this.#life.signal });
    const { token } = options;
    if (typeof token === "function")
      this.#tokens = import("./client/tokens.js").then(({ Tokens }) => new Tokens(token, () => this.restart()));
  }

  #isSilent() {
    return this.#heardAt > 0 && Date.now() - this.#heardAt > this.silence;
  }

  // After sleep or a change of networks the old connection may be dead.
  #onWake = ({ type }) => {
    if (globalThis.document?.hidden) return;
    if (type === "online") this.transport = "stream";
    if (type === "online" || this.#isSilent()) this.restart();
    else this.#wake();
  };

  // Follow further topics: replay them `since`, or go back to the cursor `from`.
  add(topics, since, from) {
    this.joining.push({ topics, since, from });
    if (this.#running) this.restart();
    else this.#run();
  }

  remove(topics) {
    for (const topic of topics) this.topics.delete(topic);
    for (const join of this.joining) join.topics = join.topics.filter((topic) => !topics.includes(topic));
    this.restart();
  }

  close() {
    this.#tokens?.then((tokens) => tokens.close());
    this.#life.abort();
    this.restart();
  }

  // At once, or after an error with a pause.
  restart(error = AGAIN) {
    this.#abort.abort(error);
    this.#wake();
  }

  async #run() {
    this.#running = true;
    const watchdog = setInterval(() => this.#isSilent() && this.restart(new Error("no heartbeat came")), this.silence / 8);
    await null; // calls of `add` and `remove` in one turn make one connection
    while (!this.#life.signal.aborted) {
      const startedAt = Date.now();
      this.#abort = new AbortController();
      let pause = await this.#attempt().catch((error) => this.#failed(error));
      this.#heardAt = 0;
      if (pause === null && !this.joining.length) break;
      if (this.#abort.signal.reason === AGAIN) continue;
      if (!pause && !this.#refused && Date.now() - startedAt < 1000) pause = 1000; // tokens may expire at once
      if (!pause) continue;
      this.state("reconnecting", pause);
      await new Promise((resolve) => {
        this.#wake = () => resolve(null);
        setTimeout(resolve, pause);
      });
    }
    clearInterval(watchdog);
    this.#running = false;
  }

  state(name, wait = 0) {
    this.sink.state({ state: name, why: this.why, wait: Math.round(wait), transport: this.transport });
  }

  #failed(error) {
    if (this.#life.signal.aborted) return null;
    if (this.#abort.signal.reason === AGAIN) return 0;
    if (error instanceof FollowError) {
      this.close();
      this.sink.fail(error);
      return null;
    }
    this.transport = "stream";
    return this.#backOff(`The broker can't be reached: ${error.message}`);
  }

  #backOff(why, seconds) {
    this.why = why;
    const pause = Math.min(LONGEST_PAUSE_MS, this.#retry * 2 ** this.#tries++);
    return seconds ? Math.min(seconds, 86_400) * 1000 * (1 + Math.random() / 4) : pause * (1 + Math.random() / 2);
  }

  async #attempt() {
    this.heard();
    if (this.joining.length) {
      if ((this.cursor && this.startedAt) || this.joining.some(({ since }) => since)) {
        const pause = await (await import("./client/pages.js")).join(this);
        if (pause) return pause;
      } else for (const { topics } of this.joining.splice(0)) for (const topic of topics) this.topics.add(topic);
    }
    if (!this.topics.size) return this.state("idle"), null;
    if (this.transport === "polling") return (await import("./client/pages.js")).poll(this);
    this.state(this.startedAt ? "reconnecting" : "connecting");
    await this.#authorize();
    const { signal } = this.#abort;
    const first = setTimeout(() => {
      this.transport = "polling";
      if (this.#abort.signal === signal) this.restart();
    }, FIRST_BYTE_MS);
    try {
      const answer = await this.ask("topics", [...this.topics], [...(await this.start()), ["envelope", "json"]], "text/event-stream");
      if (typeof answer === "number") return answer;
      if (answer.status === 204) return this.over();
      if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream") || !answer.body)
        return this.#backOff("The answer is not an event stream.");
      const reader = answer.body.getReader();
      return await this.#read(reader, first).finally(() => reader.cancel().catch(() => {}));
    } finally {
      clearTimeout(first);
    }
  }

  async #read(reader, first) {
    const decoder = new TextDecoder();
    const parser = new EventParser();
    for (;;) {
      this.#heardAt = 0;
      await this.sink.room();
      this.heard();
      const { done, value } = await reader.read();
      this.#abort.signal.throwIfAborted();
      clearTimeout(first);
      if (done) return parser.commented ? this.#retry : this.#backOff("The broker takes no more streams now.", this.#retry / 1000);
      const events = parser.push(decoder.decode(value, { stream: true }));
      this.#retry = parser.retry || this.#retry;
      if (parser.commented) this.live();
      this.deliver(events.flatMap(itemsOf), parser.lastEventId);
      const expired = events.find(({ type }) => type === "broker.expired");
      if (expired) return this.#renew(JSON.parse(expired.data).reason);
      if (!this.topics.size) return this.over();
    }
  }

  heard() {
    this.#heardAt = Date.now();
  }

  live() {
    this.#tries = 0;
    this.#refused = false;
    this.why = "";
    this.state("live");
  }

  deliver(items, cursor) {
    const before = this.cursor;
    if (cursor) this.cursor = cursor;
    for (const item of items) if (item.kind === "end") this.topics.delete(item.topic);
    if (items.length || this.cursor !== before) this.sink.deliver(items, this.cursor, before);
  }

  over() {
    this.deliver([...this.topics].map((topic) => ({ kind: "end", topic, reason: null, id: "" })));
    this.state("ended");
    return null;
  }

  // The query that says where to start.
  async start() {
    const { startedAt, options } = this;
    const { since = "latest", last } = options;
    this.startedAt ||= Date.now();
    if (this.cursor) return [["lastEventId", this.cursor]];
    if (last) return [["last", String(last)]];
    return startedAt ? (await import("./client/pages.js")).startLater(since, startedAt) : [["since", since]];
  }

  // The answer, or ms until the next attempt.
  async ask(path, topics, query, accept) {
    const token = await this.#authorize();
    const { signal } = this.#abort;
    const answer = await fetch(`${this.url}${path}?${new URLSearchParams([...topics.map((topic) => ["topic", topic]), ...query])}`, {
      headers: token ? { Accept: accept, Authorization: `Bearer ${token}` } : { Accept: accept },
      credentials: this.options.credentials ?? "same-origin",
      cache: "no-store",
      signal,
    });
    if (answer.ok) return answer;
    const { detail = `The answer is ${answer.status}.`, code } = await answer.json().catch(() => ({}));
    const seconds = Number(answer.headers.get("Retry-After"));
    if (seconds || answer.status >= 500 || [408, 425, 429].includes(answer.status)) return this.#backOff(detail, seconds);
    if (answer.status !== 401 || this.#refused) throw new FollowError(detail, answer.status, code);
    this.#refused = true;
    return this.#renew("unauthorized", detail);
  }

  // Have the next attempt get a new token.
  async #renew(reason, why = "The token has become invalid.") {
    if (!this.#tokens) throw new FollowError(why, 401, reason);
    (await this.#tokens).renew(reason);
    return 0;
  }

  async #authorize() {
    const { token } = this.options;
    return typeof token === "function" ? (await this.#tokens)?.current(this.#abort.signal) : token;
  }
}

function itemsOf({ type, data, id }) {
  const kind = type.startsWith("broker.") ? type.slice(7) : "event";
  return ["event", "gap", "cancel", "end"].includes(kind) ? [{ ...(kind === "end" && { id }), ...JSON.parse(data), kind }] : [];
}

/** What `follow` returns: topics join and leave it, and `for await` gets its events. */
export class Following {
  /** @type {State} */
  state = { state: "connecting", why: "", wait: 0, transport: "stream" };
  cursor = "";
  #source;
  /** @type {import("./client/keep.js").Kept | undefined} */
  #kept;
  /** @type {import("./client/iterate.js").EventQueue | undefined} */
  #queue;
  #queued;
  #error;

  /** @param {string[]} topics @param {Options} options */
  constructor(topics, options) {
    this.options = options;
    /** @type {Sink} */
    const sink = {
      deliver: (items, cursor) => this.#deliver(items, cursor),
      state: (state) => this.#setState(state),
      fail: (error) => this.#fail(error),
      room: () => this.#queue?.room(),
    };
    this.#source = this.#open(sink);
    this.#source.catch((error) => this.#fail(error));
    this.add(topics);
    options.signal?.addEventListener("abort", () => this.close());
    if (options.signal?.aborted) this.close();
  }

  async #open(sink) {
    await null; // `for await` begins in this turn
    await this.#queued;
    const { keep, shared } = this.options;
    if (keep) {
      this.#kept = new (await import("./client/keep.js")).Kept(keep);
      this.cursor = this.#kept.cursor;
    }
    const Source = shared && navigator.locks ? (await import("./client/shared.js")).SharedConnection : Connection;
    return new Source(this.options, sink, this.cursor);
  }

  /** Follow further topics, from now on or from `since`. @param {string | string[]} topics @param {{ since?: string }} [options] */
  add(topics, { since } = {}) {
    const names = [topics].flat();
    this.#source.then((source) => source.add(names, (since && this.#kept?.start(names)) || since));
  }

  /** @param {string | string[]} topics */
  remove(topics) {
    const names = [topics].flat();
    this.#source.then((source) => {
      source.remove(names);
      this.#kept?.forget(names);
    });
  }

  close() {
    if (this.state.state === "closed") return;
    this.#source.then((source) => source.close());
    if (this.state.state !== "failed") this.#setState({ ...this.state, state: "closed" });
  }

  /** @returns {AsyncGenerator<BrokerEvent, void, unknown>} */
  async *[Symbol.asyncIterator]() {
    this.#queued = import("./client/iterate.js").then(({ EventQueue }) => {
      this.#queue = new EventQueue();
      this.#endQueue();
      return this.#queue;
    });
    try {
      yield* await this.#queued;
    } finally {
      this.close();
    }
  }

  #deliver(items, cursor) {
    const { onEvent, onGap, onEnd, onCancel } = this.options;
    for (const each of items) {
      if (this.state.state === "closed") return;
      this.#kept?.complete(each);
      const { kind, ...item } = each;
      if (kind === "end") delete item.id;
      if (kind === "event") this.#queue?.push(item);
      call({ event: onEvent, gap: onGap, end: onEnd, cancel: onCancel }[kind], item);
    }
    this.cursor = cursor;
    this.#kept?.save(cursor);
  }

  #setState(state) {
    if (this.state.state === "closed" || JSON.stringify(state) === JSON.stringify(this.state)) return;
    this.state = state;
    call(this.options.onState, state);
    this.#endQueue();
  }

  #endQueue() {
    if (["ended", "failed", "closed"].includes(this.state.state)) this.#queue?.end(this.#error);
  }

  #fail(error) {
    this.#error = error;
    this.#setState({ ...this.state, state: "failed", why: String(error.message) });
  }
}

// An error in the page's own function must not stop the stream.
function call(callback, value) {
  try {
    callback?.(value);
  } catch (error) {
    reportError(error);
  }
}

/** Follow one topic or several. @param {string | string[]} topics @param {Options} [options] */
export function follow(topics, options = {}) {
  return new Following([topics].flat(), options);
}
