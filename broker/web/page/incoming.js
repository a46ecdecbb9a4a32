// What comes over the connection: events, and what the broker says of a topic.

import { watch } from "./address.js";
import { connectSoon, disconnect, setState } from "./connection.js";
import { text } from "./dom.js";
import { keep, note, paintSoon, view } from "./rows.js";
import { askForToken } from "./token.js";
import { showWatched } from "./watched.js";
import { parsed } from "./words.js";

export function hear(source) {
  source.onmessage = delivered;
  const control = { open: () => {}, gap: gapTold, cancel: cancelTold, end: endTold, expired: expiredTold };
  for (const [name, told] of Object.entries(control)) {
    source.addEventListener(`broker.${name}`, (event) => {
      keepCursor(event);
      told(parsed(event.data) ?? {});
    });
  }
}

function keepCursor(event) {
  if (!event.lastEventId) return;
  watch.cursor = event.lastEventId;
  paintSoon();
}

function delivered(event) {
  keepCursor(event);
  const { topic, id, event: type, time, data } = parsed(event.data) ?? { data: event.data };
  view.received += 1;
  if (watch.ended.delete(topic)) showWatched(); // deleted, and used again
  keep({ kind: "event", topic: text(topic), id: text(id), type: text(type), time: text(time), data: text(data) });
}

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

function expiredTold({ reason }) {
  disconnect(); // what it comes back with would be refused
  setState("failed", `Your token ${reason === "revoked" ? "was revoked" : "has expired"}.`);
  askForToken("A new token goes on where you are.");
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
