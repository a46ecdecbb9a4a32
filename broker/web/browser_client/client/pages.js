// What a connection reads by `GET /events`: long polling, for a path that holds streams back, and what topics keep.

/** @import {Connection} from "../client.js" */
/** @import {BrokerEvent, End, Gap, Item} from "./types.js" */

const WAIT_SECONDS = 25;
const ANSWER_MS = 10_000; // within which an answer that doesn't wait must come
const STREAM_AGAIN_MS = 300_000; // how long to poll before the next try of a stream

/**
 * A page of the events that `topics` keep, or get within `wait` seconds; or a number: ms until the next attempt.
 * @param {Connection} connection @param {Iterable<string>} topics @param {string[][]} query
 * @returns {Promise<{ items: Item[], cursor: string, more: boolean, closed: boolean } | number>}
 */
export async function page(connection, topics, query, wait = 0) {
  const tooLate = () => connection.restart(new Error("no answer came"));
  const limit = setTimeout(tooLate, ANSWER_MS + wait * 1000);
  try {
    if (wait) query = [...query, ["wait", `${wait}s`]];
    const answer = await connection.ask("events", [...topics], query, "application/json");
    if (typeof answer === "number") return answer;
    const { events, gap, ends = [], cursor, more, closed } = await answer.json();
    connection.heard();
    /** @type {Item[]} */
    const items = events.map((/** @type {BrokerEvent} */ event) => ({ ...event, kind: "event" }));
    if (gap) {
      const { also = [], ...first } = gap;
      items.unshift(...[first, ...also].map((/** @type {Gap} */ gap) => /** @type {Item} */ ({ ...gap, kind: "gap" })));
    }
    if (!more) items.push(...ends.map((/** @type {End} */ end) => ({ ...end, kind: "end" })));
    return { items, cursor, more, closed };
  } finally {
    clearTimeout(limit);
  }
}

/**
 * All that `topics` keep from `query` on; or a number: ms until the next attempt.
 * @param {Connection} connection @param {string[]} topics @param {string[][]} query
 * @returns {Promise<{ items: Item[], cursor: string } | number>}
 */
export async function allPages(connection, topics, query) {
  /** @type {Item[]} */
  const items = [];
  for (;;) {
    const next = await page(connection, topics, query);
    if (next === 0) continue; // with a new token
    if (typeof next === "number") return next;
    items.push(...next.items);
    if (!next.more) return { items, cursor: next.cursor };
    query = [["lastEventId", next.cursor]];
  }
}

/** Poll until it is time to try a stream again. @param {Connection} connection @returns {Promise<number | null>} */
export async function poll(connection) {
  const until = Date.now() + STREAM_AGAIN_MS;
  const wait = Math.min(WAIT_SECONDS, Math.floor(connection.silence / 2000));
  for (let isFirst = true, more = true; Date.now() < until; isFirst = false) {
    await connection.sink.room();
    const next = await page(connection, connection.topics, await connection.start(), isFirst || more ? 0 : wait);
    if (typeof next === "number") return next;
    more = next.more;
    connection.live();
    connection.deliver(next.items, next.cursor);
    if ((next.closed && !more) || !connection.topics.size) return connection.over();
  }
  connection.transport = "stream";
  return 0;
}

/**
 * Take further topics in. The cursor may be old, and the new topics may have had events since; so the old topics are read to their
 * end first, and the cursor with them.
 * @param {Connection} connection @returns {Promise<number>} ms until the next attempt, if the broker refuses
 */
export async function join(connection) {
  if (!connection.startedAt) start(connection);
  connection.joining = connection.joining.filter(({ topics }) => topics.length);
  const old = [...connection.topics];
  if (old.length || connection.joining.length) {
    const read = old.length
      ? await allPages(connection, old, await connection.start())
      : await allPages(connection, connection.joining[0].topics, [["since", "latest"]]);
    if (typeof read === "number") return read;
    connection.startedAt ||= Date.now();
    connection.deliver(read.items, read.cursor);
  }
  for (let joining; (joining = connection.joining[0]); connection.joining.shift()) {
    const { topics, since, last, from } = joining;
    const isNext = (/** @type {Item} */ item) => "id" in item && isNewer(item.id, connection.cursor);
    /** @type {Item[]} */
    let kept = [];
    if ((since || last) && topics.length) {
      const read = await allPages(connection, topics, [last ? ["last", String(last)] : ["since", since]]);
      if (typeof read === "number") return read;
      kept = read.items.filter((item) => !isNext(item));
    }
    for (const topic of topics) connection.topics.add(topic);
    connection.deliver(kept); // which takes out those that have ended
    if (from && isNewer(connection.cursor, from)) connection.cursor = from;
  }
  return 0;
}

/**
 * Topics that were added without a start of their own begin at the cursor that was kept, or where the options say.
 * @param {Connection} connection
 */
function start({ options, cursor, joining, topics }) {
  const { since, last } = options;
  for (const join of joining) {
    if (join.since) continue;
    if (!cursor) Object.assign(join, last ? { last } : { since });
    else for (const topic of join.topics.splice(0)) topics.add(topic);
  }
}

/**
 * The query for a start at `since` that was first asked for at `startedAt`: an age counts back from now, so it grows.
 * @param {string} since @param {number} startedAt
 */
export function startLater(since, startedAt) {
  const [, count, unit] = /^(\d+)([smh])$/.exec(since === "latest" ? "0s" : since) ?? [];
  if (!unit) return [["since", since]];
  const seconds = Number(count) * (unit === "s" ? 1 : unit === "m" ? 60 : 3600);
  return [["since", `${seconds + Math.ceil((Date.now() - startedAt) / 1000)}s`]];
}

/** @param {string} a @param {string} b @returns {boolean} whether id `a` is newer than `b`; any id is newer than "" */
export function isNewer(a, b) {
  const [left, right] = [a, b].map((id) => id.split("-").map((part) => part.padStart(20, "0")).join());
  return !b || left > right;
}
