// The list of events and notices: kept oldest first, shown newest first.
//
// Everything has a bound: the rows, the text they keep, the rows that wait during a pause.

import { linkAfter, watch } from "./address.js";
import { $, clock, clone, copy, counted, number, text } from "./dom.js";
import { indented, readable } from "./format.js";

const MAX_ROWS = 500; // and the older ones that were asked for,
const MOST_ROWS = 5000; // up to this
const MAX_CHARS = 8_000_000; // of data in all kept rows together: an event may have 262,144 bytes
const PREVIEW_CHARS = 300;
const PAINT_MS = 100;

const MOST_TYPES = 12; // to choose from

// `isWhole`: nothing older is kept by the broker. `types`: how many events have each.
const nothing = () => ({ rows: [], chars: 0, received: 0, gaps: 0, dropped: 0, max: MAX_ROWS, isWhole: false, types: new Map() });
export const view = { ...nothing(), paused: false, filter: "", chosen: new Set(), timer: 0, paintedAt: 0 };
let ahead = 0; // the broker's clock before this one, in ms
const recordOf = new WeakMap();
const hues = new Map();

export function eventRecord({ topic, id, event, time, data }) {
  return { kind: "event", topic: text(topic), id: text(id), type: text(event), time: text(time), data: text(data) };
}

const GAP_WORDS = {
  trimmed: (after) => `You have missed events after ${after}: the broker no longer keeps them.`,
  "unknown-id": (after) => `The broker doesn't know the cursor ${after}, so you may have missed events.`,
  lost: (after) => `Events after ${after} were lost before they could be delivered.`,
};

export function gapRecord({ topic, after, reason }) {
  const words = Object.hasOwn(GAP_WORDS, reason) ? GAP_WORDS[reason] : (id) => `Events after ${id} can't be delivered.`;
  const data = `${words(after ? `“${after}”` : "your cursor")} (${text(reason)})`;
  return { kind: "gap", time: now(), title: `Gap in ${text(topic)}`, data, link: after ? linkAfter(text(topic), text(after)) : "" };
}

// The broker's time; its answers say it to the second.
export function setClock(answer) {
  const date = Date.parse(answer.headers.get("Date") ?? "");
  if (!Number.isNaN(date)) ahead = Math.abs(date + 500 - Date.now()) < 1000 ? 0 : date + 500 - Date.now();
}

const now = () => new Date(Date.now() + ahead).toISOString();

function count(record) {
  view.chars += record.data.length;
  if (!record.type) return;
  view.types.set(record.type, (view.types.get(record.type) ?? 0) + 1);
  if (view.types.size > MOST_TYPES) view.types.delete([...view.types.keys()].find((type) => type !== record.type && !view.chosen.has(type)));
}

// Records that are older than all others, the oldest first.
export function keepOlder(records) {
  const room = Math.max(0, MOST_ROWS - view.rows.length);
  const fitting = records.slice(Math.max(0, records.length - room));
  view.max = Math.min(MOST_ROWS, Math.max(view.max, view.rows.length + fitting.length + MAX_ROWS / 2));
  if (fitting.length < records.length) view.isWhole = true; // the page takes no more
  for (const record of fitting) count(record);
  view.received += fitting.filter(({ kind }) => kind === "event").length;
  view.rows.unshift(...fitting);
  $("rows").append(...fitting.map(painted).reverse());
  paintSoon();
}

export function keep(record) {
  view.rows.push(record);
  count(record);
  while (view.rows.length > view.max || (view.chars > MAX_CHARS && view.rows.length > 1)) {
    view.chars -= view.rows.shift().data.length;
    view.dropped += 1;
  }
  paintSoon();
}

// At once after a quiet moment, else at most ten times a second, so that a flood of events leaves time for other work.
export function paintSoon() {
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
  showTypes();
  $("older").hidden = view.isWhole || !watch.cursor;
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
  showType(typeSlot, type);
  dataSlot.textContent = readable(data.slice(0, PREVIEW_CHARS));
  idSlot.textContent = id;
  return row;
}

function noticeRow({ kind, time, title, data, link }) {
  const row = clone("notice-row");
  row.classList.add(kind);
  showTime(row.querySelector("time"), time);
  row.querySelector(".title").textContent = title;
  row.querySelector(".words").textContent = data;
  if (link) Object.assign(row.querySelector("a"), { href: link, hidden: false });
  return row;
}

function showTime(slot, time) {
  const date = new Date(time);
  slot.textContent = Number.isNaN(date.valueOf()) ? time : clock.format(date);
  slot.dateTime = time;
}

// Each topic gets a colour when it is first shown.
export function showTopic(slot, topic) {
  if (!hues.has(topic)) hues.set(topic, hues.size % 6);
  slot.textContent = topic;
  slot.classList.add(`hue-${hues.get(topic)}`);
}

// A type has the same colour on every page.
function showType(slot, type) {
  slot.textContent = type;
  if (type) slot.classList.add(`hue-${[...type].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 6007, 7) % 6}`);
}

// The types seen so far, to choose from.
function showTypes() {
  const shown = [...$("types").children].map(({ dataset }) => dataset.type);
  const types = [...view.types.keys()];
  if (String(types) !== String(shown)) $("types").replaceChildren(...types.map(typeButton));
  for (const button of $("types").children) button.querySelector(".badge").textContent = number.format(view.types.get(button.dataset.type));
}

function typeButton(type) {
  const button = clone("type-choice");
  button.dataset.type = type;
  button.setAttribute("aria-pressed", view.chosen.has(type));
  showType(button.querySelector(".type"), type);
  return button;
}

export function chooseType(button) {
  const { type } = button.dataset;
  if (!view.chosen.delete(type)) view.chosen.add(type);
  button.setAttribute("aria-pressed", view.chosen.has(type));
  filterRows();
}

// The filters never hide a gap, an end or a cancel.
function matches({ kind, topic, id, type, data }) {
  if (kind === "event" && view.chosen.size && !view.chosen.has(type)) return false;
  return kind !== "event" || !view.filter || `${topic}\n${type}\n${id}\n${data}`.toLowerCase().includes(view.filter);
}

export function filterRows() {
  view.filter = $("filter").value.trim().toLowerCase();
  for (const record of view.rows) if (record.row) record.row.hidden = !matches(record);
}

export function clearRows() {
  Object.assign(view, nothing());
  view.chosen.clear();
  $("rows").replaceChildren();
  paintSoon();
}

export function togglePause() {
  view.paused = !view.paused;
  $("pause").textContent = view.paused ? "Resume" : "Pause";
  $("pause").setAttribute("aria-pressed", view.paused);
  paintSoon();
}

// An open row shows all of the data; a closed one frees that text.
export function toggleRow(details) {
  details.querySelector(".body")?.remove();
  if (!details.open) return;
  const body = clone("event-body");
  const record = recordOf.get(details.closest("li"));
  for (const field of ["id", "topic", "type", "time"]) body.querySelector(`.full-${field}`).textContent = record[field];
  body.querySelector(".typed").hidden = !record.type;
  const pretty = indented(record.data);
  body.querySelector("[data-act=raw]").hidden = pretty === null;
  body.querySelector("pre").textContent = pretty === null ? record.data : readable(pretty);
  details.append(body);
}

export function actOnRow(button) {
  const record = recordOf.get(button.closest("li"));
  if (button.dataset.act === "copy-data") copy(record.data, button);
  if (button.dataset.act === "copy-id") copy(record.id, button);
  if (button.dataset.act === "raw") toggleRaw(button, record.data);
}

function toggleRaw(button, data) {
  const raw = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", raw);
  button.closest(".body").querySelector("pre").textContent = raw ? data : readable(indented(data));
}

// `id`: gives the time, if there is one.
export function note(title, words, kind = "note", id = "") {
  const ms = parseInt(id, 10);
  keep({ kind, time: ms > 0 && ms < 8e15 ? new Date(ms).toISOString() : now(), title, data: words });
}
