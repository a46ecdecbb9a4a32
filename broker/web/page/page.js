// The broker's web page: publish to topics, and watch topics live over one EventSource.
//
// Rules: the content of an event is only ever set as textContent. A topic's name is checked before it goes into a URL.
// The cursor is the last event's id. Every change of the watched topics reopens the one connection with the cursor.
//
// This file starts the page and listens to its elements. The others have one concern each: address, connection, events, rows,
// watched, topics, publish, token; dom and format are used by all.

import { readAddress, root, watch, writeAddress } from "./address.js";
import { connect, connectSoon, onSource, showDetail, stream } from "./connection.js";
import { $, copy } from "./dom.js";
import { addListeners } from "./events.js";
import { copySnippet, publish, showSnippets } from "./publish.js";
import { actOnRow, clearRows, filterRows, paintSoon, togglePause, toggleRow } from "./rows.js";
import { takeToken } from "./token.js";
import { refreshTopics } from "./topics.js";
import { add, labelWatchButton, showStart, showWatched, submitWatch } from "./watched.js";

const STALE_MS = 60_000;

let hiddenAt = 0;

function shownOrHidden() {
  if (document.hidden) hiddenAt = Date.now();
  else if (stream.state === "live" && Date.now() - hiddenAt > STALE_MS) connect(); // a sleeping computer loses connections unnoticed
  refreshTopics();
}

function on(id, type, handle) {
  $(id).addEventListener(type, (event) => {
    if (type === "submit") event.preventDefault();
    handle(event);
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
  on("token-form", "submit", () => {
    takeToken();
    connect();
    refreshTopics();
  });
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
  const icon = document.querySelector("link[rel=icon]");
  icon.href = new URL("icon.svg", import.meta.url).href; // a relative link would change with the page's address
  $("host").textContent = root.replace(/^\w+:\/\//, "");
  readAddress();
  writeAddress();
  $("publish-topic").value = watch.topics[0] ?? "";
  const wide = matchMedia("(min-width: 60rem)").matches;
  for (const panel of ["publish-panel", "topics-panel"]) $(panel).open = wide;
  showStart(watch.start);
  showWatched();
  listen();
  setInterval(showDetail, 1000);
  paintSoon();
  onSource(addListeners);
  connect();
  refreshTopics();
}

start();
