// The one connection: opened, opened again with the cursor, and why it isn't there.
//
// Knows nothing of what events mean: that is the business of who `follow`s.

import { startParams, streamUrl, watch } from "./address.js";
import { $ } from "./dom.js";
import { note } from "./rows.js";
import { authorized, refusedToken, withToken } from "./token.js";
import { refusal } from "./words.js";

const STATE_NAMES = {
  idle: "Idle", connecting: "Connecting", live: "Live",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Given up",
};
export const stream = { source: null, timer: 0, retryAt: 0, tries: 0, openedAt: 0, lost: false, state: "idle", since: 0 };

let hear = () => {};

// `listener` gets every new EventSource, to listen to what comes over it.
export function follow(listener) {
  hear = listener;
}

export function setState(name, why = "") {
  Object.assign(stream, { state: name, since: Date.now() });
  $("state").dataset.state = name;
  $("state-name").textContent = STATE_NAMES[name];
  $("problem").dataset.state = name;
  $("problem-text").textContent = why;
  $("again").hidden = !why || name === "live";
  $("empty").textContent = watch.topics.length
    ? "No event yet."
    : "No topic is watched. Name one, or take one from the list of topics.";
  showWaiting();
}

export function showWaiting() {
  const seconds = Math.round((Date.now() - stream.since) / 1000);
  let words = "";
  if (stream.retryAt) words = `in ${Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000))} s`;
  else if (stream.state === "reconnecting") words = `for ${seconds} s`;
  else if (stream.state === "connecting" && seconds > 4)
    words = `for ${seconds} s. Over HTTP/1.1 a browser allows six connections to one origin, all tabs together.`;
  $("state-detail").textContent = words;
}

export function disconnect() {
  clearTimeout(stream.timer);
  stream.source?.close();
  Object.assign(stream, { source: null, retryAt: 0, openedAt: 0 });
}

export function connect() {
  disconnect();
  setState(watch.topics.length ? "connecting" : "idle");
  if (!watch.topics.length) return;
  const source = new EventSource(withToken(streamUrl(watch.cursor ? [["lastEventId", watch.cursor]] : startParams())));
  stream.source = source;
  source.onopen = opened;
  source.onerror = () => broken(source);
  hear(source);
}

export function connectSoon(ms = 100) {
  clearTimeout(stream.timer);
  stream.timer = setTimeout(connect, ms);
}

function opened() {
  if (stream.lost && watch.cursor) note("Connected again", `Going on after ${watch.cursor}.`);
  Object.assign(stream, { openedAt: Date.now(), tries: 0, lost: false });
  setState("live");
}

const ENDED_AT_ONCE = "The broker answered and ended at once: full, or stopping? It has said when to come back.";

async function broken(source) {
  const brief = stream.openedAt && Date.now() - stream.openedAt < 1000;
  Object.assign(stream, { openedAt: 0, lost: true });
  setState("reconnecting", brief ? ENDED_AT_ONCE : "");
  if (source.readyState !== EventSource.CLOSED) return; // the browser comes back by itself
  const { state, why, retryMs } = await explanation();
  if (stream.source !== source) return;
  if (retryMs) {
    stream.retryAt = Date.now() + retryMs;
    connectSoon(retryMs);
  }
  setState(state, why);
}

// EventSource doesn't tell why it has given up: ask once more, by fetch.
async function explanation() {
  const asking = new AbortController();
  const limit = setTimeout(() => asking.abort(), 5000);
  try {
    const start = watch.cursor ? [["lastEventId", watch.cursor]] : startParams();
    const headers = authorized({ Accept: "application/json" });
    return await verdict(await fetch(streamUrl(start), { headers, cache: "no-store", signal: asking.signal }));
  } catch {
    return { state: "reconnecting", why: "The broker can't be reached.", retryMs: backoff() };
  } finally {
    clearTimeout(limit);
    asking.abort(); // the answer may be an endless stream
  }
}

async function verdict(answer) {
  const type = answer.headers.get("Content-Type") ?? "nothing";
  if (answer.status === 204) return { state: "ended", why: "All these topics are closed, with nothing left to come." };
  if (answer.ok && !type.startsWith("text/event-stream"))
    return { state: "failed", why: `What answers here is no event stream but ${type}: is there something in between?` };
  refusedToken(answer);
  const why = answer.ok ? "The connection failed; the broker answers now." : await refusal(answer);
  const passing = answer.ok || answer.status >= 500 || [408, 425, 429].includes(answer.status);
  return passing ? { state: "reconnecting", why, retryMs: retryAfter(answer) ?? backoff() } : { state: "failed", why };
}

function backoff() {
  stream.tries += 1;
  return Math.min(30_000, 1000 * 2 ** stream.tries) * (0.5 + Math.random() / 2);
}

function retryAfter(answer) {
  const seconds = Number(answer.headers.get("Retry-After"));
  return seconds > 0 ? seconds * 1000 * (1 + Math.random() / 4) : undefined;
}
