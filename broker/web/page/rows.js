// The list of events and notices: kept oldest first, shown newest first.
//
// Everything has a bound: the rows, the text they keep, the rows that wait during a pause.

import { watch } from "./address.js";
import { $, clock, clone, copy, counted, number } from "./dom.js";
import { indented } from "./format.js";

const MAX_ROWS = 500;
const MAX_CHARS = 8_000_000; // of data in all kept rows together: an event may have 262,144 bytes
const PREVIEW_CHARS = 300;
const PAINT_MS = 100;

const nothing = () => ({ rows: [], chars: 0, received: 0, gaps: 0, dropped: 0 });
export const view = { ...nothing(), paused: false, filter: "", timer: 0, paintedAt: 0 };
const recordOf = new WeakMap();
const hues = new Map();

export function keep(record) {
  view.rows.push(record);
  view.chars += record.data.length;
  while (view.rows.length > MAX_ROWS || (view.chars > MAX_CHARS && view.rows.length > 1)) {
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

// Each topic gets a colour when it is first shown.
export function showTopic(slot, topic) {
  if (!hues.has(topic)) hues.set(topic, hues.size % 6);
  slot.textContent = topic;
  slot.classList.add(`hue-${hues.get(topic)}`);
}

// The filter never hides a gap, an end or a cancel.
function matches({ kind, topic, id, type, data }) {
  return kind !== "event" || !view.filter || `${topic}\n${type}\n${id}\n${data}`.toLowerCase().includes(view.filter);
}

export function filterRows() {
  view.filter = $("filter").value.trim().toLowerCase();
  for (const record of view.rows) if (record.row) record.row.hidden = !matches(record);
}

export function clearRows() {
  Object.assign(view, nothing());
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
  body.querySelector("pre").textContent = pretty ?? record.data;
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
  button.closest(".body").querySelector("pre").textContent = raw ? data : indented(data);
}

export const note = (title, words, kind = "note") => keep({ kind, time: new Date().toISOString(), title, data: words });
