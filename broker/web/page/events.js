// What arrives on the connection: events, and the broker's control events.

import { watch } from "./address.js";
import { connectSoon, disconnect, setState } from "./connection.js";
import { text } from "./dom.js";
import { parsed } from "./format.js";
import { keep, note, paintSoon, view } from "./rows.js";
import { askForToken } from "./token.js";
import { showWatched } from "./watched.js";

export function addListeners(source) {
  source.onmessage = onEvent;
  const control = { open: () => {}, gap: onGap, cancel: onCancel, end: onEnd, expired: onExpired };
  for (const [name, handle] of Object.entries(control)) {
    source.addEventListener(`broker.${name}`, (event) => {
      keepCursor(event);
      handle(parsed(event.data) ?? {});
    });
  }
}

function keepCursor(event) {
  if (!event.lastEventId) return;
  watch.cursor = event.lastEventId;
  paintSoon();
}

function onEvent(event) {
  keepCursor(event);
  const { topic, id, event: type, time, data } = parsed(event.data) ?? { data: event.data };
  view.received += 1;
  if (watch.ended.delete(topic)) showWatched(); // it was deleted, and its name is used again
  keep({ kind: "event", topic: text(topic), id: text(id), type: text(type), time: text(time), data: text(data) });
}

const GAP_WORDS = {
  trimmed: (after) => `You have missed events after ${after}: the broker no longer keeps them.`,
  "unknown-id": (after) => `The broker doesn't know the cursor ${after}, so you may have missed events.`,
  lost: (after) => `Events after ${after} were lost before they could be delivered.`,
};

function onGap({ topic, after, reason }) {
  const words = Object.hasOwn(GAP_WORDS, reason) ? GAP_WORDS[reason] : (id) => `Events after ${id} can't be delivered.`;
  view.gaps += 1;
  note(`Gap in ${text(topic)}`, `${words(after ? `“${after}”` : "your cursor")} (${text(reason)})`, "gap");
}

function onCancel({ topic }) {
  note(`Cancel of ${text(topic)}`, "The producer was asked to stop.", "cancel");
}

function onExpired({ reason }) {
  disconnect(); // a reconnect with the same token would be refused
  setState("failed", `Your token ${reason === "revoked" ? "was revoked" : "has expired"}.`);
  askForToken("With a new token the stream continues from your cursor.");
}

const END_WORDS = {
  closed: "Its publisher closed it; no more events will follow.",
  deleted: "It was deleted with all its events. The name can be used again and stays watched.",
  cancelled: "Its producer was asked to stop; no more events will follow.",
  failed: "Its publisher failed, so it isn't complete; no more events will follow.",
  abandoned: "Its producer disappeared without closing it; no more events will follow.",
};

function onEnd({ topic, reason }) {
  const words = Object.hasOwn(END_WORDS, reason) ? END_WORDS[reason] : text(reason);
  if (watch.ended.get(topic) !== reason) note(`End of ${text(topic)}`, words, "end");
  if (reason === "deleted") {
    disconnect(); // this connection gets no more of the topic, a new one does
    connectSoon();
    return;
  }
  watch.ended.set(topic, reason);
  showWatched();
  if (watch.topics.every((name) => watch.ended.has(name))) {
    disconnect();
    setState("ended", "All these topics are closed.");
  }
}
