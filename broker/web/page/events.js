// What arrives on the connection: events, and what the broker says of topics.

import { watch } from "./address.js";
import { connectSoon, disconnect, setState } from "./connection.js";
import { text } from "./dom.js";
import { eventRecord, gapRecord, keep, note, view } from "./rows.js";
import { showWatched } from "./watched.js";

export const handlers = { onEvent, onGap, onCancel, onEnd };

function onEvent(event) {
  view.received += 1;
  if (watch.ended.delete(event.topic)) showWatched(); // it was deleted, and its name is used again
  keep(eventRecord(event));
}

function onGap(gap) {
  view.gaps += 1;
  keep(gapRecord(gap));
}

function onCancel({ topic }) {
  note(`Cancel of ${text(topic)}`, "The producer was asked to stop.", "cancel");
}

const END_WORDS = {
  closed: "Its publisher closed it; no more events will follow.",
  deleted: "It was deleted with all its events. The name can be used again and stays watched.",
  cancelled: "Its producer was asked to stop; no more events will follow.",
  stopped: "Its publisher was stopped; no more events will follow.",
  failed: "Its publisher failed, so it isn't complete; no more events will follow.",
  abandoned: "Its producer disappeared without closing it; no more events will follow.",
};

function onEnd({ topic, reason, id }) {
  if (reason === null && watch.ended.has(topic)) return; // shown already
  const words = Object.hasOwn(END_WORDS, reason) ? END_WORDS[reason] : `It ended${reason ? `: ${text(reason)}` : ""}. No more events will follow.`;
  if (watch.ended.get(topic) !== reason) note(`End of ${text(topic)}`, words, "end", id);
  if (reason === "deleted") {
    connectSoon(); // this connection gets no more of the topic, a new one does
    return;
  }
  watch.ended.set(topic, reason);
  showWatched();
  if (watch.topics.every((name) => watch.ended.has(name))) {
    disconnect();
    setState("ended", "All these topics are closed.");
  }
}
