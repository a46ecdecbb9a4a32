// The list of existing topics. Needs the right `admin`. Refreshed while the page is visible and the list is open.

import { root } from "./address.js";
import { $, clone, counted, number, text } from "./dom.js";
import { isTopic, short } from "./format.js";
import { authorized } from "./token.js";
import { add } from "./watched.js";

const REFRESH_MS = 4000;
const MOST = 200; // shown

const listed = new Map(); // name -> its item, reused, so that a refresh keeps the focus
let listTimer = 0;
let asking = new AbortController();

export async function refreshTopics() {
  clearTimeout(listTimer);
  asking.abort();
  if (document.hidden || !($("topics-panel").open || $("topics-panel").hidden)) return;
  const { signal } = (asking = new AbortController());
  const query = new URLSearchParams({ sort: $("topics-sort").value, search: $("topics-search").value.trim(), limit: `${MOST}` });
  const options = { headers: authorized({ Accept: "application/json" }), cache: "no-store", signal };
  const answer = await fetch(`${root}/admin/topics?${query}`, options).catch(() => null);
  if (signal.aborted) return;
  if (answer?.status === 401 || answer?.status === 403) {
    $("topics-panel").hidden = true; // this token may not list topics, so don't ask again
    return;
  }
  if (answer?.ok) showTopics(await answer.json().catch(() => ({})));
  listTimer = setTimeout(refreshTopics, REFRESH_MS);
}

function showTopics({ topics, matching, total }) {
  if (!Array.isArray(topics)) return;
  const infos = topics.filter(({ topic }) => isTopic(text(topic)));
  const names = infos.map(({ topic }) => topic);
  if (String(names) !== String([...listed.keys()])) relist(names);
  for (const info of infos) showTopicInfo(listed.get(info.topic), info);
  $("topics-panel").hidden = false;
  $("topics-count").textContent = number.format(total);
  const hidden = matching > names.length ? `The first ${number.format(names.length)} of ${number.format(matching)}.` : "";
  const none = total ? "No topic has this in its name." : "No topics yet. Publish an event to create one.";
  $("topics-hint").textContent = names.length ? hidden : none;
}

function relist(names) {
  const focused = document.activeElement;
  const items = names.map((name) => [name, listed.get(name) ?? listedTopic(name)]);
  listed.clear();
  for (const [name, item] of items) listed.set(name, item);
  $("topics").replaceChildren(...listed.values());
  if (focused?.isConnected) focused.focus();
}

function listedTopic(name) {
  const item = clone("listed-topic");
  item.querySelector("button").addEventListener("click", () => add([name]));
  item.querySelector(".topic").textContent = name;
  return item;
}

function showTopicInfo(item, { subscribers, events, closed, events_per_second: rate }) {
  const words = `${counted(subscribers, "subscriber")}, ${counted(events, "event")}${rate ? `, ${short(rate)}/s` : ""}${closed ? ", closed" : ""}`;
  const slot = item.querySelector(".counts");
  if (slot.textContent !== words) slot.textContent = words;
}
