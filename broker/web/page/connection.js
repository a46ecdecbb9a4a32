// The page's one connection: first the kept events, then new ones by the browser client. If it fails, the page says why.
//
// Knows nothing of what events mean: `onItems` sets the functions that do.

import { follow } from "../client.js";
import { historyUrl, root, startParams, watch } from "./address.js";
import { $, counted } from "./dom.js";
import { plainly, refusal } from "./format.js";
import { eventRecord, gapRecord, keepOlder, note, paintSoon, setClock, view } from "./rows.js";
import { authorized, currentToken, refusedToken } from "./token.js";

const RECENT = 50;
const PAGE = "1000"; // the most events of one answer
const NEWEST_ID = "99999999999999-0"; // of any event
const LONGEST_PAUSE_MS = 30_000;
const STATE_NAMES = {
  idle: "Idle", connecting: "Connecting", live: "Live",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Failed",
};
export const stream = { following: null, request: null, timer: 0, retryAt: 0, tries: 0, lost: false, state: "idle", since: 0, isPolling: false };

let handlers = {};

// `given` has onEvent, onGap, onEnd and onCancel, as `follow` takes them.
export function onItems(given) {
  handlers = given;
}

export function setState(name, why = "", wait = 0) {
  if (stream.state !== name) stream.since = Date.now();
  Object.assign(stream, { state: name, retryAt: wait && Date.now() + wait });
  $("state").dataset.state = name;
  $("state-name").textContent = name === "failed" && !$("token-form").hidden ? "Token needed" : STATE_NAMES[name];
  $("problem").dataset.state = name;
  $("problem-text").textContent = why;
  $("again").hidden = !why || name === "live" || name === "ended";
  const none = name === "failed" ? "" : "No events yet."; // without an answer, the page cannot know
  $("empty").textContent = watch.topics.length ? none : "You are not watching a topic. Enter a name, or choose one from the list.";
  showDetail();
}

export function showDetail() {
  const seconds = Math.round((Date.now() - stream.since) / 1000);
  const next = stream.retryAt ? `, next in ${Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000))} s` : "";
  let words = "";
  if (stream.state === "reconnecting")
    words = `for ${seconds} s${stream.tries ? `, ${counted(stream.tries, "attempt")} failed${next || ", trying again"}` : ""}`;
  else if (stream.state === "connecting" && seconds > 4)
    words = `for ${seconds} s. With HTTP/1.1 a browser opens at most six connections to one origin, over all tabs.`;
  else if (stream.state === "live" && stream.isPolling) words = "by polling: something between here and the broker holds streams back";
  $("state-detail").textContent = words;
}

export function disconnect() {
  clearTimeout(stream.timer);
  stream.request?.abort();
  stream.following?.close();
  Object.assign(stream, { following: null, request: null, retryAt: 0 });
}

export function connect() {
  disconnect();
  Object.assign(stream, { tries: 0, isPolling: false });
  setState(watch.topics.length ? "connecting" : "idle");
  if (!watch.topics.length) return;
  stream.request = new AbortController();
  open(stream.request.signal);
}

export function connectSoon(ms = 100) {
  clearTimeout(stream.timer);
  stream.timer = setTimeout(connect, ms);
}

async function open(signal) {
  if (!watch.cursor && !(await showKept(signal))) return;
  if (watch.topics.every((name) => watch.ended.has(name))) return ended();
  const changed = (handle) => (item) => {
    handle(item);
    queueMicrotask(() => signal.aborted || keepCursor(following.cursor));
  };
  const following = follow(watch.topics, {
    url: root,
    token: currentToken() || undefined,
    since: watch.cursor,
    ...Object.fromEntries(Object.entries(handlers).map(([name, handle]) => [name, changed(handle)])),
    onState: (state) => signal.aborted || showState(state),
  });
  stream.following = following;
  try {
    for await (const _ of following); // events come by onEvent; this tells why the broker refused
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function keepCursor(cursor) {
  if (cursor) watch.cursor = cursor;
  paintSoon();
}

function showState({ state, why, wait, transport }) {
  stream.isPolling = transport === "polling";
  if (state === "live") opened();
  else if (state === "reconnecting") {
    if (stream.state === "live") stream.lost = true;
    if (wait) stream.tries += 1;
    setState("reconnecting", plainly(why) || $("problem-text").textContent, wait);
  } else if (state === "ended") ended();
}

function ended() {
  setState("ended", watch.topics.length > 1 ? "All these topics are closed." : "This topic is closed.");
}

function opened() {
  if (stream.lost) note("Reconnected", `Continuing after ${watch.cursor}.`);
  Object.assign(stream, { tries: 0, lost: false });
  setState("live");
}

// For a 401, the form for a token has the words.
const refusalWords = (status, message) => (status === 401 ? "" : `Refused (${status}). ${message}`);

const TOKEN_WORDS = { expired: "Your token has expired.", revoked: "Your token was revoked." };

function failed({ message, status, code }) {
  if (status) refusedToken({ status }, Object.hasOwn(TOKEN_WORDS, code));
  setState("failed", TOKEN_WORDS[code] ?? (status ? refusalWords(status, message) : message));
}

// What the topics keep

// Shows the first events of the start that was asked for, and sets the cursor behind them; false if that was refused for good.
async function showKept(signal) {
  const isRecent = watch.start.kind === "recent";
  let page = await keptEvents(startParams(), signal);
  if (isRecent && page?.closed) page = await keptEvents([["since", "earliest"]], signal);
  if (!page) return false;
  const { events, gap, ends = [], cursor, more, closed } = page;
  if (gap) for (const each of [gap, ...(gap.also ?? [])]) handlers.onGap(each);
  for (const event of events) handlers.onEvent(event);
  view.isWhole = watch.start.kind === "earliest" || (isRecent && (closed || events.length < RECENT));
  keepCursor(cursor);
  if (!more) for (const end of ends) handlers.onEnd(end);
  return true;
}

// Tries until there is an answer; null if it is refused for good.
async function keptEvents(start, signal) {
  for (;;) {
    const { page, why, pause } = await ask([...start, ["limit", PAGE]], signal);
    if (signal.aborted) return null;
    if (page) return page;
    stream.tries += 1;
    if (!pause) {
      setState("failed", why);
      return null;
    }
    setState("reconnecting", why, pause);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// A page; or why there is none, with the ms until it may be asked for again, 0 for never.
async function ask(query, signal) {
  let answer;
  try {
    answer = await fetch(historyUrl(query), { headers: authorized({ Accept: "application/json" }), cache: "no-store", signal });
    setClock(answer);
    if (answer.ok) return { page: await answer.json() };
  } catch {
    return { why: "The broker can't be reached.", pause: backoff() };
  }
  refusedToken(answer);
  if (answer.status === 401) return { why: refusalWords(401), pause: 0 };
  const isPassing = answer.status >= 500 || [408, 425, 429].includes(answer.status);
  return { why: await refusal(answer), pause: isPassing ? retryAfter(answer) ?? backoff() : 0 };
}

export async function loadOlder({ target }) {
  const { signal } = stream.request ?? new AbortController();
  const oldest = view.rows.find(({ kind }) => kind === "event")?.id ?? NEWEST_ID;
  target.disabled = true;
  const { page, why } = await ask([["before", oldest], ["limit", `${RECENT}`]], signal);
  target.disabled = false;
  if (signal.aborted) return;
  $("older-hint").textContent = why ?? "";
  if (!page) return;
  view.isWhole = !page.more;
  const gaps = page.gap ? [page.gap, ...(page.gap.also ?? [])] : [];
  keepOlder([...gaps.map(gapRecord), ...page.events.map(eventRecord)]);
}

const backoff = () => Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** stream.tries) * (0.5 + Math.random() / 2);

function retryAfter(answer) {
  const seconds = Number(answer.headers.get("Retry-After"));
  return seconds > 0 ? seconds * 1000 * (1 + Math.random() / 4) : undefined;
}
