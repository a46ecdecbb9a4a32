// The watched topics. Every change reopens the one connection with its cursor.

import { MAX_TOPICS, STARTS, startParams, watch, writeAddress } from "./address.js";
import { connectSoon } from "./connection.js";
import { $, clone } from "./dom.js";
import { TOPIC_RULE, isTopic } from "./format.js";
import { showSnippets } from "./publish.js";
import { clearRows, note, showTopic } from "./rows.js";

export function showWatched() {
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

export function add(names) {
  const fresh = [...new Set(names)].filter((name) => !watch.topics.includes(name));
  const wrong = fresh.find((name) => !isTopic(name));
  const full = watch.topics.length + fresh.length > MAX_TOPICS;
  $("watch-error").textContent = wrong ? `“${wrong}”: ${TOPIC_RULE}` : full ? `At most ${MAX_TOPICS} topics.` : "";
  if (wrong || full) return false;
  if (!watch.topics.length) Object.assign(watch, { start: shownStart(), cursor: "" });
  if (fresh.length && watch.cursor) note(`Also watching ${fresh.join(", ")}`, `From the cursor ${watch.cursor}.`);
  if (fresh.length) changeTopics([...watch.topics, ...fresh]);
  $("publish-topic").value ||= fresh[0] ?? "";
  return true;
}

// A name in the field is added at the cursor. Without a name, or with another start, everything starts over from there.
export function submitWatch() {
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

export function labelWatchButton() {
  $("watch-button").textContent = $("watch-topics").value.trim() || !watch.topics.length ? "Watch" : "Start over";
}

const shownStart = () => ({ kind: $("start-kind").value, value: $("start-value").value.trim() });

export function showStart({ kind, value }) {
  const { param, label, value: first } = STARTS[kind];
  $("start-kind").value = kind;
  $("start-field").hidden = !param;
  $("start-label").textContent = label ?? "";
  $("start-value").value = param ? value || first() : "";
}
