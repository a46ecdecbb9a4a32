// The page's one connection: it is opened, and reopened with the cursor; if it fails, the page says why.
//
// Knows nothing of what events mean: `onSource` sets the function that does.

import { startParams, streamUrl, watch } from "./address.js";
import { $ } from "./dom.js";
import { refusal } from "./format.js";
import { note } from "./rows.js";
import { authorized, refusedToken, withToken } from "./token.js";

const STATE_NAMES = {
  idle: "Idle", connecting: "Connecting", live: "Live",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Failed",
};
export const stream = { source: null, timer: 0, retryAt: 0, tries: 0, openedAt: 0, lost: false, state: "idle", since: 0 };

let addListeners = () => {};

// Calls `listener` with every new EventSource.
export function onSource(listener) {
  addListeners = listener;
}

export function setState(name, why = "") {
  Object.assign(stream, { state: name, since: Date.now() });
  $("state").dataset.state = name;
  $("state-name").textContent = STATE_NAMES[name];
  $("problem").dataset.state = name;
  $("problem-text").textContent = why;
  $("again").hidden = !why || name === "live";
  $("empty").textContent = watch.topics.length
    ? "No events yet."
    : "You are not watching a topic. Enter a name, or choose one from the list.";
  showDetail();
}

export function showDetail() {
  const seconds = Math.round((Date.now() - stream.since) / 1000);
  let words = "";
  if (stream.retryAt) words = `in ${Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000))} s`;
  else if (stream.state === "reconnecting") words = `for ${seconds} s`;
  else if (stream.state === "connecting" && seconds > 4)
    words = `for ${seconds} s. With HTTP/1.1 a browser opens at most six connections to one origin, over all tabs.`;
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
  source.onerror = () => failed(source);
  addListeners(source);
}

export function connectSoon(ms = 100) {
  clearTimeout(stream.timer);
  stream.timer = setTimeout(connect, ms);
}

function opened() {
  if (stream.lost && watch.cursor) note("Reconnected", `Continuing after ${watch.cursor}.`);
  Object.assign(stream, { openedAt: Date.now(), tries: 0, lost: false });
  setState("live");
}

const CLOSED_AT_ONCE = "The broker closed the stream at once: it may be full or shutting down. The browser reconnects later.";

async function failed(source) {
  const brief = stream.openedAt && Date.now() - stream.openedAt < 1000;
  Object.assign(stream, { openedAt: 0, lost: true });
  setState("reconnecting", brief ? CLOSED_AT_ONCE : "");
  if (source.readyState !== EventSource.CLOSED) return; // the browser reconnects by itself
  const { state, why, retryMs } = await explanation();
  if (stream.source !== source) return;
  if (retryMs) {
    stream.retryAt = Date.now() + retryMs;
    connectSoon(retryMs);
  }
  setState(state, why);
}

// EventSource doesn't say why it gave up, so ask again with fetch.
async function explanation() {
  const request = new AbortController();
  const limit = setTimeout(() => request.abort(), 5000);
  try {
    const start = watch.cursor ? [["lastEventId", watch.cursor]] : startParams();
    const headers = authorized({ Accept: "application/json" });
    return await stateAfter(await fetch(streamUrl(start), { headers, cache: "no-store", signal: request.signal }));
  } catch {
    return { state: "reconnecting", why: "The broker can't be reached.", retryMs: backoff() };
  } finally {
    clearTimeout(limit);
    request.abort(); // the answer may be an endless stream
  }
}

async function stateAfter(answer) {
  const type = answer.headers.get("Content-Type") ?? "nothing";
  if (answer.status === 204) return { state: "ended", why: "All these topics are closed; no more events will follow." };
  if (answer.ok && !type.startsWith("text/event-stream"))
    return { state: "failed", why: `The answer is ${type}, not an event stream. It may come from a proxy.` };
  refusedToken(answer);
  const why = answer.ok ? "The connection failed, but the broker answers again." : await refusal(answer);
  const temporary = answer.ok || answer.status >= 500 || [408, 425, 429].includes(answer.status);
  return temporary ? { state: "reconnecting", why, retryMs: retryAfter(answer) ?? backoff() } : { state: "failed", why };
}

function backoff() {
  stream.tries += 1;
  return Math.min(30_000, 1000 * 2 ** stream.tries) * (0.5 + Math.random() / 2);
}

function retryAfter(answer) {
  const seconds = Number(answer.headers.get("Retry-After"));
  return seconds > 0 ? seconds * 1000 * (1 + Math.random() / 4) : undefined;
}
