// The broker's web page: publish to topics, and watch topics live over one EventSource.
//
// Rules: what an event contains is text and becomes nothing but textContent; a topic's name is checked before it
// goes into a URL; nothing grows without a bound (rows, the text they keep, the rows held back by a pause).
// The cursor is the last event's id. Whatever changes while watching, the one connection is opened again with it.

const MAX_ROWS = 500;
const MAX_CHARS = 8_000_000; // of data in all kept rows together: an event may have 262,144 bytes
const MAX_TOPICS = 32; // as many as the broker takes in one request
const PREVIEW_CHARS = 300;
const PAINT_MS = 100;
const REFRESH_MS = 4000;
const STALE_MS = 60_000;

const $ = (id) => document.getElementById(id);
const text = (value) => (value === null || value === undefined ? "" : String(value));
const clone = (id) => $(id).content.firstElementChild.cloneNode(true);
const number = new Intl.NumberFormat("en");
const counted = (n, word) => `${number.format(n)} ${word}${n === 1 ? "" : "s"}`;
const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});

// ---- Topics, and where to start ----

const TOPIC_RULE = "A topic has 1 to 200 of A-Z a-z 0-9 . _ ~ : @ - and no empty part between dots.";
const isTopic = (name) => name.length <= 200 && /^[\w~:@-]+(\.[\w~:@-]+)*$/.test(name);

// kind: the query parameter it becomes, the label of its value, a first value
const STARTS = {
  live: {},
  earliest: { fixed: ["since", "earliest"] },
  last: { param: "last", label: "N", value: () => "20" },
  since: { param: "since", label: "Age or time", value: () => "10m" },
  id: { param: "lastEventId", label: "Id", value: () => watch.cursor },
};

const watch = { topics: [], start: { kind: "live", value: "" }, cursor: "", ended: new Map() };

function startParams({ kind, value } = watch.start) {
  const { fixed, param } = STARTS[kind];
  return fixed ? [fixed] : param ? [[param, value]] : [];
}

function startFrom(params) {
  if (params.has("lastEventId")) return { kind: "id", value: params.get("lastEventId") };
  if (params.get("since") === "earliest") return { kind: "earliest", value: "" };
  if (params.has("since")) return { kind: "since", value: params.get("since") };
  if (params.has("last")) return { kind: "last", value: params.get("last") };
  return { kind: "live", value: "" };
}

function pathTopic() {
  const [, name] = /^\/topics\/([^/]+)$/.exec(location.pathname) ?? [];
  try {
    return name ? [decodeURIComponent(name)] : [];
  } catch {
    return [];
  }
}

// The address is the state: /topics/FIRST#topic=SECOND&last=20. Read in the query as well, as in a subscriber's URL.
function readAddress() {
  const params = new URLSearchParams(`${location.search.slice(1)}&${location.hash.slice(1)}`);
  const names = [...new Set([...pathTopic(), ...params.getAll("topic")])];
  watch.topics = names.filter(isTopic).slice(0, MAX_TOPICS);
  watch.start = startFrom(params);
  if (watch.topics.length < names.length) $("watch-error").textContent = TOPIC_RULE;
}

function writeAddress() {
  const [first, ...others] = watch.topics;
  const state = new URLSearchParams([...others.map((name) => ["topic", name]), ...startParams()]).toString();
  history.replaceState(null, "", (first ? `/topics/${first}` : "/") + (state && `#${state}`));
  document.title = first ? `${watch.topics.join(", ")} · sse-broker` : "sse-broker";
}

function streamUrl(start) {
  const query = [...watch.topics.map((name) => ["topic", name]), ...start, ["envelope", "json"]];
  return `${location.origin}/topics?${new URLSearchParams(query)}`;
}

// ---- The connection ----

const STATE_NAMES = {
  idle: "Idle", connecting: "Connecting", live: "Live",
  reconnecting: "Reconnecting", ended: "Ended", failed: "Given up",
};
const stream = { source: null, timer: 0, retryAt: 0, tries: 0, openedAt: 0, lost: false, state: "idle", since: 0 };

function setState(name, why = "") {
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

function showWaiting() {
  const seconds = Math.round((Date.now() - stream.since) / 1000);
  let words = "";
  if (stream.retryAt) words = `in ${Math.max(0, Math.ceil((stream.retryAt - Date.now()) / 1000))} s`;
  else if (stream.state === "reconnecting") words = `for ${seconds} s`;
  else if (stream.state === "connecting" && seconds > 4)
    words = `for ${seconds} s. Over HTTP/1.1 a browser allows six connections to one origin, all tabs together.`;
  $("state-detail").textContent = words;
}

function disconnect() {
  clearTimeout(stream.timer);
  stream.source?.close();
  Object.assign(stream, { source: null, retryAt: 0, openedAt: 0 });
}

function connect() {
  disconnect();
  setState(watch.topics.length ? "connecting" : "idle");
  if (!watch.topics.length) return;
  const source = new EventSource(streamUrl(watch.cursor ? [["lastEventId", watch.cursor]] : startParams()));
  stream.source = source;
  source.onopen = opened;
  source.onerror = () => broken(source);
  source.onmessage = delivered;
  const control = { open: () => {}, gap: gapTold, cancel: cancelTold, end: endTold };
  for (const [name, told] of Object.entries(control)) {
    source.addEventListener(`broker.${name}`, (event) => {
      keepCursor(event);
      told(parsed(event.data) ?? {});
    });
  }
}

function connectSoon(ms = 100) {
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
    const headers = { Accept: "application/json" };
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

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return `Refused (${answer.status}). ${text(problem?.detail) || answer.statusText}`;
}

// ---- What comes in ----

function parsed(json) {
  try {
    return JSON.parse(json) ?? {};
  } catch {
    return undefined;
  }
}

function keepCursor(event) {
  if (event.lastEventId) watch.cursor = event.lastEventId;
}

function delivered(event) {
  keepCursor(event);
  const { topic, id, event: type, time, data } = parsed(event.data) ?? { data: event.data };
  view.received += 1;
  if (watch.ended.delete(topic)) showWatched(); // deleted, and used again
  keep({ kind: "event", topic: text(topic), id: text(id), type: text(type), time: text(time), data: text(data) });
}

const note = (title, words, kind = "note") => keep({ kind, time: new Date().toISOString(), title, data: words });

const GAP_WORDS = {
  trimmed: (after) => `Events after ${after} are lost to you: the broker no longer keeps them.`,
  "unknown-id": (after) => `The broker doesn't know the cursor ${after}, so it can't tell what you have missed.`,
  lost: (after) => `Events after ${after} were lost before they could be delivered.`,
};

function gapTold({ topic, after, reason }) {
  const words = Object.hasOwn(GAP_WORDS, reason) ? GAP_WORDS[reason] : (id) => `Events after ${id} can't be delivered.`;
  view.gaps += 1;
  note(`Gap in ${text(topic)}`, `${words(after ? `“${after}”` : "your cursor")} (${text(reason)})`, "gap");
}

function cancelTold({ topic }) {
  note(`Cancel of ${text(topic)}`, "Somebody asked the producer to stop.", "cancel");
}

const END_WORDS = {
  closed: "Its publisher has closed it; nothing will follow.",
  deleted: "It was deleted with all it kept. The name may be used again and stays watched.",
  abandoned: "Its publisher has gone away without an end; nothing will follow.",
};

function endTold({ topic, reason }) {
  const words = Object.hasOwn(END_WORDS, reason) ? END_WORDS[reason] : text(reason);
  if (watch.ended.get(topic) !== reason) note(`End of ${text(topic)}`, words, "end");
  if (reason === "deleted") {
    disconnect(); // this connection is done with the topic, the page isn't
    connectSoon();
    return;
  }
  watch.ended.set(topic, reason);
  showWatched();
  if (watch.topics.every((name) => watch.ended.has(name))) {
    disconnect();
    setState("ended", "All these topics have ended.");
  }
}

// ---- The list: kept rows, oldest first; the page shows them newest first, painted once a frame ----

const nothing = () => ({ rows: [], chars: 0, received: 0, gaps: 0, dropped: 0 });
const view = { ...nothing(), paused: false, filter: "", timer: 0, paintedAt: 0 };
const recordOf = new WeakMap();
const hues = new Map();

function keep(record) {
  view.rows.push(record);
  view.chars += record.data.length;
  while (view.rows.length > MAX_ROWS || (view.chars > MAX_CHARS && view.rows.length > 1)) {
    view.chars -= view.rows.shift().data.length;
    view.dropped += 1;
  }
  paintSoon();
}

// At once after a pause, otherwise ten times a second: a flood of events leaves the page time to answer.
function paintSoon() {
  const rest = Math.max(0, view.paintedAt + PAINT_MS - performance.now());
  view.timer ||= setTimeout(() => requestAnimationFrame(paint), rest);
}

function paint() {
  Object.assign(view, { timer: 0, paintedAt: performance.now() });
  const fresh = view.rows.slice(view.rows.findLastIndex((record) => record.row) + 1).reverse();
  if (!view.paused) {
    const list = $("rows");
    list.prepend(...fresh.map(painted));
    while (list.children.length > view.rows.length) list.lastElementChild.remove();
  }
  showCounts(view.paused ? fresh.length : 0);
  $("cursor").textContent = watch.cursor || "none yet";
  $("copy-cursor").disabled = !watch.cursor;
}

function showCounts(held) {
  const show = (id, words, shown) => Object.assign($(id), { textContent: words, hidden: !shown });
  show("received", counted(view.received, "event"), true);
  show("gaps", counted(view.gaps, "gap"), view.gaps);
  show("held", `${number.format(held)} held back`, held);
  show("dropped", `${counted(view.dropped, "older row")} dropped`, view.dropped);
  $("empty").hidden = view.rows.length > 0;
}

function painted(record) {
  const row = record.kind === "event" ? eventRow(record) : noticeRow(record);
  row.hidden = !matches(record);
  record.row = row;
  recordOf.set(row, record);
  return row;
}

function eventRow({ topic, id, type, time, data }) {
  const row = clone("event-row");
  const [summary] = row.firstElementChild.children;
  const [timeSlot, topicSlot, typeSlot, dataSlot, idSlot] = summary.children;
  showTime(timeSlot, time);
  showTopic(topicSlot, topic);
  typeSlot.textContent = type;
  dataSlot.textContent = data.slice(0, PREVIEW_CHARS);
  idSlot.textContent = id;
  return row;
}

function noticeRow({ kind, time, title, data }) {
  const row = clone("notice-row");
  row.classList.add(kind);
  showTime(row.querySelector("time"), time);
  row.querySelector(".title").textContent = title;
  row.querySelector(".words").textContent = data;
  return row;
}

function showTime(slot, time) {
  const date = new Date(time);
  slot.textContent = Number.isNaN(date.valueOf()) ? time : clock.format(date);
  slot.dateTime = time;
}

// Only watched topics have a colour, in the order they were first shown.
function showTopic(slot, topic) {
  if (!hues.has(topic)) hues.set(topic, hues.size % 6);
  slot.textContent = topic;
  slot.classList.add(`hue-${hues.get(topic)}`);
}

// A gap, an end or a cancel is never filtered away.
function matches({ kind, topic, id, type, data }) {
  return kind !== "event" || !view.filter || `${topic}\n${type}\n${id}\n${data}`.toLowerCase().includes(view.filter);
}

function filterRows() {
  view.filter = $("filter").value.trim().toLowerCase();
  for (const record of view.rows) if (record.row) record.row.hidden = !matches(record);
}

function clearRows() {
  Object.assign(view, nothing());
  $("rows").replaceChildren();
  paintSoon();
}

function togglePause() {
  view.paused = !view.paused;
  $("pause").textContent = view.paused ? "Resume" : "Pause";
  $("pause").setAttribute("aria-pressed", view.paused);
  paintSoon();
}

// Opened rows show all of the data; closed ones give that text back.
function toggleRow(details) {
  details.querySelector(".body")?.remove();
  if (!details.open) return;
  const body = clone("event-body");
  const record = recordOf.get(details.closest("li"));
  for (const field of ["id", "topic", "type", "time"]) body.querySelector(`.full-${field}`).textContent = record[field];
  body.querySelector(".typed").hidden = !record.type;
  const pretty = indented(record.data);
  body.querySelector("[data-act=raw]").hidden = pretty === null;
  body.querySelector("pre").textContent = pretty ?? record.data;
  details.append(body);
}

function actOnRow(button) {
  const record = recordOf.get(button.closest("li"));
  if (button.dataset.act === "copy-data") copy(record.data, button);
  if (button.dataset.act === "copy-id") copy(record.id, button);
  if (button.dataset.act === "raw") toggleRaw(button, record.data);
}

function toggleRaw(button, data) {
  const raw = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", raw);
  button.closest(".body").querySelector("pre").textContent = raw ? data : indented(data);
}

const JSON_TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|\{\s*\}|\[\s*\]|[{}[\]:,]|[^\s{}[\]:,"]+/g;

// Only the blanks between tokens change: JSON.stringify(JSON.parse()) would round long numbers and lose double keys.
// Null for what is no JSON object or array, or would grow too much.
function indented(json) {
  if (!/^\s*[[{]/.test(json) || parsed(json) === undefined) return null;
  let depth = 0;
  let out = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [token] of json.matchAll(JSON_TOKEN)) {
    if (token === "{" || token === "[") depth += 1;
    if (token === "}" || token === "]") depth -= 1;
    if (depth > 60 || out.length > 2_000_000) return null;
    if (token === "{" || token === "[" || token === ",") out += token + line();
    else if (token === "}" || token === "]") out += line() + token;
    else if (token === ":") out += ": ";
    else out += /^[{[]/.test(token) ? token[0] + token.at(-1) : token; // an empty object or array keeps to its line
  }
  return out;
}

// ---- Which topics are watched ----

function showWatched() {
  $("watched").replaceChildren(...watch.topics.map(watchedTopic));
  labelWatchButton();
  showSnippets();
}

function watchedTopic(name) {
  const chip = clone("watched-topic");
  const [nameSlot, endSlot, button] = chip.children;
  showTopic(nameSlot, name);
  endSlot.textContent = watch.ended.get(name) ?? "";
  button.setAttribute("aria-label", `Stop watching ${name}`);
  button.addEventListener("click", () => unwatch(name));
  return chip;
}

function changeTopics(topics) {
  watch.topics = topics;
  writeAddress();
  showWatched();
  connectSoon();
}

function unwatch(name) {
  const place = watch.topics.indexOf(name);
  watch.ended.delete(name);
  changeTopics(watch.topics.filter((other) => other !== name));
  const left = $("watched").querySelectorAll("button");
  (left[Math.min(place, left.length - 1)] ?? $("watch-button")).focus();
}

function add(names) {
  const fresh = [...new Set(names)].filter((name) => !watch.topics.includes(name));
  const wrong = fresh.find((name) => !isTopic(name));
  const full = watch.topics.length + fresh.length > MAX_TOPICS;
  $("watch-error").textContent = wrong ? `“${wrong}”: ${TOPIC_RULE}` : full ? `At most ${MAX_TOPICS} topics.` : "";
  if (wrong || full) return false;
  if (!watch.topics.length) Object.assign(watch, { start: shownStart(), cursor: "" });
  if (fresh.length && watch.cursor) note(`Watching ${fresh.join(", ")} too`, `From the cursor ${watch.cursor} on.`);
  if (fresh.length) changeTopics([...watch.topics, ...fresh]);
  $("publish-topic").value ||= fresh[0] ?? "";
  return true;
}

// A name in the field is added at the cursor. No name, or another start: everything starts over from there.
function submitWatch() {
  const names = $("watch-topics").value.split(/[\s,]+/).filter(Boolean);
  const start = shownStart();
  const restart = !names.length || String(startParams(start)) !== String(startParams());
  if (!add(names)) return;
  $("watch-topics").value = "";
  watch.start = start;
  if (restart) startOver();
  labelWatchButton();
}

function startOver() {
  watch.cursor = "";
  watch.ended.clear();
  clearRows();
  changeTopics(watch.topics);
}

function labelWatchButton() {
  $("watch-button").textContent = $("watch-topics").value.trim() || !watch.topics.length ? "Watch" : "Start over";
}

const shownStart = () => ({ kind: $("start-kind").value, value: $("start-value").value.trim() });

function showStart({ kind, value }) {
  const { param, label, value: first } = STARTS[kind];
  $("start-kind").value = kind;
  $("start-field").hidden = !param;
  $("start-label").textContent = label ?? "";
  $("start-value").value = param ? value || first() : "";
}

// ---- Which topics there are ----

const listed = new Map(); // name -> its item, kept so that a refresh doesn't take the focus away
let listTimer = 0;

async function refreshTopics() {
  clearTimeout(listTimer);
  if (document.hidden) return;
  const asked = { headers: { Accept: "application/json" }, cache: "no-store" };
  const answer = await fetch("/topics", asked).catch(() => null);
  if (answer?.status === 401 || answer?.status === 403) {
    $("topics-panel").hidden = true; // not ours to see; no use in asking again
    return;
  }
  if (answer?.ok) showTopics(await answer.json().catch(() => ({})));
  listTimer = setTimeout(refreshTopics, REFRESH_MS);
}

function showTopics({ topics, next }) {
  if (!Array.isArray(topics)) return;
  const infos = topics.filter(({ topic }) => isTopic(text(topic)));
  const names = infos.map(({ topic }) => topic);
  if (String(names) !== String([...listed.keys()])) relist(names);
  for (const info of infos) showTopicInfo(listed.get(info.topic), info);
  $("topics-panel").hidden = false;
  $("topics-count").textContent = number.format(names.length) + (next ? "+" : "");
  const none = names.length ? "" : "There is none yet. Publish to one.";
  $("topics-hint").textContent = next ? "There are more, to be watched by their names." : none;
}

function relist(names) {
  const focused = document.activeElement;
  const items = names.map((name) => [name, listed.get(name) ?? listedTopic(name)]);
  listed.clear();
  for (const [name, item] of items) listed.set(name, item);
  $("topics").replaceChildren(...listed.values());
  if (focused?.isConnected) focused.focus();
}

function listedTopic(name) {
  const item = clone("listed-topic");
  item.querySelector("button").addEventListener("click", () => add([name]));
  item.querySelector(".topic").textContent = name;
  return item;
}

function showTopicInfo(item, { subscribers, events, closed }) {
  const words = `${counted(subscribers, "subscriber")}, ${counted(events, "event")}${closed ? ", closed" : ""}`;
  const slot = item.querySelector(".counts");
  if (slot.textContent !== words) slot.textContent = words;
}

// ---- Publish ----

let publishing = false;

const publishForm = () => ({
  topic: $("publish-topic").value.trim(), type: $("publish-type").value, data: $("publish-data").value,
});

function publishUrl({ topic, type }) {
  const query = new URLSearchParams(type && { event: type }).toString();
  return `${location.origin}/topics/${topic}${query && `?${query}`}`;
}

async function publish() {
  const form = publishForm();
  if (publishing) return;
  if (!isTopic(form.topic)) {
    publishResult(TOPIC_RULE, true);
    return;
  }
  publishing = true;
  const headers = { "Content-Type": "text/plain; charset=utf-8", Accept: "application/json" };
  try {
    const answer = await fetch(publishUrl(form), { method: "POST", headers, body: form.data });
    if (answer.ok) publishResult(`Published to ${form.topic} as ${(await answer.json()).id}.`, false, form.topic);
    else publishResult(await refusal(answer), true);
  } catch {
    publishResult("No answer from the broker, so it isn't known whether the event was published.", true);
  } finally {
    publishing = false;
  }
}

function publishResult(words, bad, topic = "") {
  $("publish-result").textContent = words;
  $("publish-result").classList.toggle("error", bad);
  $("publish-watch").hidden = !isTopic(topic) || watch.topics.includes(topic);
  $("publish-watch").textContent = `Watch ${topic}`;
  $("publish-watch").dataset.topic = topic;
}

// ---- Code to copy ----

const shell = (value) => `'${value.replaceAll("'", "'\\''")}'`;

function showSnippets() {
  const [only] = watch.topics.length === 1 ? watch.topics : [];
  const query = new URLSearchParams(startParams()).toString();
  const curlUrl = only ? `${location.origin}/topics/${only}${query && `?${query}`}` : streamUrl(startParams());
  const none = "Watch a topic first.";
  $("watch-curl").textContent = watch.topics.length ? `curl -N ${shell(curlUrl)}` : none;
  $("watch-js").textContent = watch.topics.length ? watchScript(streamUrl(startParams())) : none;
  const form = publishForm();
  if (!isTopic(form.topic)) form.topic = "TOPIC";
  $("publish-curl").textContent = `curl --data-binary ${shell(form.data || "hello")} \\\n  ${shell(publishUrl(form))}`;
}

const watchScript = (url) => `const source = new EventSource(${JSON.stringify(url)});
source.onmessage = (sent) => {
  const { topic, id, event, time, data } = JSON.parse(sent.data);
  console.log(topic, id, event, data);
};
source.addEventListener("broker.gap", (gap) => console.warn("gap", gap.data));
source.addEventListener("broker.end", (end) => console.info("end", end.data));`;

async function copy(words, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    done = copyByHand(words, button); // no clipboard where the page came over plain http from elsewhere
  }
  button.dataset.label ??= button.textContent;
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => (button.textContent = button.dataset.label), 1500);
}

function copySnippet({ target }) {
  if (target.dataset.snippet) copy($(target.dataset.snippet).textContent, target);
}

function copyByHand(words, button) {
  const area = document.createElement("textarea");
  area.value = words;
  button.after(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  button.focus();
  return done;
}

// ---- Start ----

let hiddenAt = 0;

function shownOrHidden() {
  if (document.hidden) hiddenAt = Date.now();
  else if (stream.state === "live" && Date.now() - hiddenAt > STALE_MS) connect(); // sleep cuts without a word
  refreshTopics();
}

function on(id, type, does) {
  $(id).addEventListener(type, (event) => {
    if (type === "submit") event.preventDefault();
    does(event);
  });
}

function listen() {
  on("watch-form", "submit", submitWatch);
  on("watch-topics", "input", () => {
    $("watch-error").textContent = "";
    labelWatchButton();
  });
  on("start-kind", "change", ({ target }) => showStart({ kind: target.value, value: "" }));
  on("publish-form", "submit", publish);
  on("publish-form", "input", showSnippets);
  on("publish-form", "keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && publish());
  on("publish-watch", "click", ({ target }) => add([target.dataset.topic]) && (target.hidden = true));
  on("code-panel", "click", copySnippet);
  on("copy-cursor", "click", ({ target }) => copy(watch.cursor, target));
  on("again", "click", connect);
  on("pause", "click", togglePause);
  on("clear", "click", clearRows);
  on("filter", "input", filterRows);
  on("rows", "click", ({ target }) => target.dataset.act && actOnRow(target));
  $("rows").addEventListener("toggle", ({ target }) => toggleRow(target), true); // toggle doesn't bubble
  document.addEventListener("visibilitychange", shownOrHidden);
  addEventListener("online", () => stream.lost && connectSoon());
  addEventListener("pageshow", (event) => event.persisted && connect());
  addEventListener("hashchange", () => location.reload());
}

function start() {
  $("host").textContent = location.host;
  readAddress();
  writeAddress();
  $("publish-topic").value = watch.topics[0] ?? "";
  const wide = matchMedia("(min-width: 60rem)").matches;
  for (const panel of ["publish-panel", "topics-panel"]) $(panel).open = wide;
  showStart(watch.start);
  showWatched();
  listen();
  setInterval(showWaiting, 1000);
  paintSoon();
  connect();
  refreshTopics();
}

start();
