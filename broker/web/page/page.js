// The page for topics: shows their kept and new events over one connection of the browser client, and publishes to them.
//
// Rules: the content of an event is only ever set as textContent. A topic's name is checked before it goes into a URL.
// The cursor is the last event's id. Every change of the watched topics reopens the one connection with the cursor.
//
// This file starts the page and listens to its elements. The others have one concern each: address, connection, events, rows,
// watched, topics, publish, token; dom and format are used by all.

import { readAddress, root, watch, writeAddress } from "./address.js";
import { connect, loadOlder, onItems, showDetail } from "./connection.js";
import { $, copy } from "./dom.js";
import { handlers } from "./events.js";
import { copySnippet, publish, showSnippets } from "./publish.js";
import { actOnRow, chooseType, clearRows, filterRows, paintSoon, togglePause, toggleRow } from "./rows.js";
import { takeToken } from "./token.js";
import { refreshTopics } from "./topics.js";
import { add, labelWatchButton, showStart, showWatched, submitWatch } from "./watched.js";

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
  on("older", "click", loadOlder);
  on("types", "click", ({ target }) => target.closest("button") && chooseType(target.closest("button")));
  for (const id of ["topics-search", "topics-sort"]) on(id, "input", refreshTopics);
  on("topics-panel", "toggle", refreshTopics);
  document.addEventListener("visibilitychange", refreshTopics);
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
  $("publish-panel").open = wide;
  $("topics-panel").open = $("watch-panel").open = wide || !watch.topics.length;
  showStart(watch.start);
  showWatched();
  listen();
  setInterval(showDetail, 1000);
  paintSoon();
  onItems(handlers);
  connect();
  refreshTopics();
}

start();
