// The dashboard: what all instances of the broker do, now and over the last 15 minutes. They publish it to the topic `_stats`.
//
// This file starts the page and follows `_stats`. The others have one concern each: figures (what arrives), charts, instances
// (tiles, reasons, table), busiest (the table of topics), topic_view (one topic); dom, format and token are shared with the page
// for topics.

import { follow } from "../client.js";
import { root } from "./address.js";
import { listenToTopics, refreshTopics } from "./busiest.js";
import { makeCharts, showCharts } from "./charts.js";
import { $ } from "./dom.js";
import { heardAt, series, takeNow, takePast } from "./figures.js";
import { parsed } from "./format.js";
import { showInstances, showReasons, showTiles } from "./instances.js";
import { askForToken, currentToken, takeToken } from "./token.js";
import { listenToTopic, refreshTopic, shownTopic } from "./topic_view.js";

const SINCE = "45s"; // each instance publishes its last 15 minutes more often than that
const SILENT_MS = 5000;
const PAINT_MS = 200; // many instances send many events, and a picture shows all of them
const STATES = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", failed: "Failed", ended: "Ended", closed: "Closed", idle: "Idle" };

let following = null;
let live = false;
let heard = 0; // when figures arrived last, by this computer's clock
let painting = 0;

function start() {
  $("host").textContent = root.replace(/^\w+:\/\//, "");
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    takeToken();
    connect();
  });
  listenToTopics();
  listenToTopic(arrange);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  makeCharts().then(() => setInterval(tick, 1000));
  connect();
}

function connect() {
  following?.close();
  heard = Date.now();
  following = follow("_stats", { url: root, since: SINCE, token: currentToken() || undefined, onEvent, onState });
}

function onEvent({ event, time, data }) {
  const at = Date.parse(time) / 1000;
  const value = parsed(data);
  if (!value || Number.isNaN(at)) return;
  heard = Date.now();
  if (event === "past") takePast(at, value);
  if (event === "now") takeNow(at, value);
  painting ||= setTimeout(() => requestAnimationFrame(paint), PAINT_MS);
}

function onState({ state, why }) {
  live = state === "live";
  $("state").dataset.state = state;
  $("state-name").textContent = STATES[state];
  if (state === "failed") failed(why);
  else if (state === "reconnecting") say(why);
}

// The client says why, but not with which status; ask once more.
async function failed(why) {
  const headers = { Accept: "application/json", ...(currentToken() && { Authorization: `Bearer ${currentToken()}` }) };
  const answer = await fetch(`${root}/topics/_stats`, { headers, cache: "no-store" }).catch(() => null);
  if (answer?.status === 401) askForToken(currentToken() ? "The broker does not accept this token, or no longer accepts it." : "");
  else if (answer?.status === 403) askForToken("This token does not have that right.");
  else say(why);
}

function say(words) {
  $("problem").hidden = !words;
  if ($("problem-text").textContent !== words) $("problem-text").textContent = words;
}

// Where no figures come although the stream is open, readiness says why.
async function tick() {
  if (document.hidden || !live || Date.now() - heard < SILENT_MS) return;
  const answer = await fetch(`${root}/readyz`, { cache: "no-store" }).catch(() => null);
  const { checks = {} } = (await answer?.json().catch(() => null)) ?? {};
  const problems = Object.entries(checks).filter(([, state]) => state !== "ok").map(([name, state]) => `${name}: ${state}`);
  const seconds = Math.round((Date.now() - heard) / 1000);
  if (Date.now() - heard >= SILENT_MS) say(`No figures for ${seconds} s. ${problems.join("; ") || (answer ? "" : "The broker can't be reached.")}`);
}

function paint() {
  painting = 0;
  if (!heardAt()) return;
  say("");
  if ($("topics").hidden === !shownTopic()) arrange();
  showTiles();
  showCharts(series());
  showReasons();
  showInstances();
}

// Either all of it, or one topic.
function arrange() {
  const one = shownTopic();
  for (const id of ["now", "past", "reasons", "instances", "topics"]) $(id).hidden = one || !heardAt();
  $("topic").hidden = !one;
  refresh();
  if (location.hash === "#topics") $("topics").scrollIntoView();
}

function refresh() {
  refreshTopics();
  refreshTopic();
}

start();
