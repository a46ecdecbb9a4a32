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
import { parsed, plainly } from "./format.js";
import { showInstances, showReasons, showTiles, showUnknown } from "./instances.js";
import { askForToken, currentToken, takeToken } from "./token.js";
import { listenToTopic, refreshTopic, shownTopic } from "./topic_view.js";

const SINCE = "45s"; // each instance publishes its last 15 minutes more often than that
const SILENT_MS = 5000;
const TOKEN_WORDS = { expired: "Your token has expired.", revoked: "Your token was revoked." };
const PAINT_MS = 200; // many instances send many events, and a picture shows all of them
const STATES = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", ended: "Ended", closed: "Closed", idle: "Idle" };

let following = null;
let live = false;
let heard = 0; // when figures arrived last, by this computer's clock
let painting = 0;
let isAsking = false; // whether the broker is ready

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

async function connect() {
  following?.close();
  heard = Date.now();
  const mine = (following = follow("_stats", { url: root, since: SINCE, token: currentToken() || undefined, onEvent, onState }));
  try {
    for await (const _ of mine); // events come by onEvent; this tells why the broker refused
  } catch (error) {
    if (mine === following) failed(error);
  }
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
  showState(state, STATES[state] ?? $("state-name").textContent); // `failed` has the words for its state
  if (state === "reconnecting") say(plainly(why));
}

function showState(state, name) {
  $("state").dataset.state = state;
  if ($("state-name").textContent !== name) $("state-name").textContent = name; // a screen reader reads each change aloud
}

function failed(error) {
  const { message, status, code } = error;
  const isAboutToken = status === 401 || status === 403;
  $("state-name").textContent = isAboutToken ? "Token needed" : "Failed";
  if (error instanceof TypeError) say("The page couldn't be loaded completely. Reload it."); // a module
  else say(isAboutToken ? "" : message);
  if (status === 403) askForToken("This token does not have that right.");
  else if (isAboutToken) askForToken(TOKEN_WORDS[code] ?? (currentToken() ? "The broker does not accept this token, or no longer accepts it." : ""));
}

function say(words) {
  $("problem").hidden = !words;
  if ($("problem-text").textContent !== words) $("problem-text").textContent = words;
}

// Without figures for a while, those on the page are old. If the stream is open nevertheless, readiness says why.
async function tick() {
  if (document.hidden || Date.now() - heard < SILENT_MS) return;
  $("dashboard").dataset.old = "";
  showUnknown();
  if (!live) return;
  showState("silent", "No figures");
  if (isAsking) return;
  isAsking = true;
  const answer = await fetch(`${root}/readyz`, { cache: "no-store", signal: AbortSignal.timeout(SILENT_MS) }).catch(() => null);
  const { checks = {} } = (await answer?.json().catch(() => null)) ?? {};
  isAsking = false;
  const problems = Object.entries(checks).filter(([, state]) => state !== "ok").map(([name, state]) => `${name}: ${state}`);
  if (checks.store && checks.store !== "ok") problems.splice(0, Infinity, `The store: ${checks.store}.`); // the others follow from it
  const seconds = Math.round((Date.now() - heard) / 1000);
  const why = problems.join("; ") || (answer ? "" : "The broker can't be reached.");
  if (live && Date.now() - heard >= SILENT_MS) say(`No figures for ${seconds} s${heardAt() ? ", so those below are old" : ""}. ${why}`);
}

function paint() {
  painting = 0;
  if (!heardAt()) return;
  say("");
  if (live) showState("live", STATES.live);
  delete $("dashboard").dataset.old;
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
