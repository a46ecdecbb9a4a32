// The list of existing topics, refreshed while the page is visible.

import { root } from "./address.js";
import { $, clone, counted, number, text } from "./dom.js";
import { isTopic } from "./format.js";
import { authorized } from "./token.js";
import { add } from "./watched.js";

const REFRESH_MS = 4000;

const listed = new Map(); // name -> its item, reused, so that a refresh keeps the focus
let listTimer = 0;

export async function refreshTopics() {
  clearTimeout(listTimer);
  if (document.hidden) return;
  const options = { headers: authorized({ Accept: "application/json" }), cache: "no-store" };
  const answer = await fetch(`${root}/topics`, options).catch(() => null);
  if (answer?.status === 401 || answer?.status === 403) {
    $("topics-panel").hidden = true; // this token may not list topics, so don't ask again
    return;
  }
  if (answer?.ok) showTopics(await answer.json().catch(() => ({})));
  listTimer = setTimeout(refreshTopics, REFRESH_MS);
}

function showTopics({ topics, next }) {
  if (!Array.isArray(topics)) return;
  const infos = topics.filter(({ topic }) => isTopic(text(topic)));
  const names = infos.map(({ topic }) => topic);
  if (String(names) !== String([...listed.keys()])) relist(names);
  for (const info of infos) showTopicInfo(listed.get(info.topic), info);
  $("topics-panel").hidden = false;
  $("topics-count").textContent = number.format(names.length) + (next ? "+" : "");
  const empty = names.length ? "" : "No topics yet. Publish an event to create one.";
  $("topics-hint").textContent = next ? "There are more topics; watch them by name." : empty;
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

function showTopicInfo(item, { subscribers, events, closed }) {
  const words = `${counted(subscribers, "subscriber")}, ${counted(events, "event")}${closed ? ", closed" : ""}`;
  const slot = item.querySelector(".counts");
  if (slot.textContent !== words) slot.textContent = words;
}
