// The table of topics: sorted and searched by the broker, which sends at most two hundred.

import { root } from "./address.js";
import { $, clone, number } from "./dom.js";
import { bytes, plural, refusal, short } from "./format.js";
import { authorized } from "./token.js";

const REFRESH_MS = 3000;
const FIRST = matchMedia("(max-width: 48rem)").matches ? 10 : 25;
const MOST = 200;

const rows = new Map(); // name -> its row, reused, so that a refresh keeps the focus
let shown = { sort: "subscribers", search: "", limit: FIRST };
let timer = 0;
let asked = 0;

export function listenToTopics() {
  $("sorts").addEventListener("click", ({ target }) => target.dataset.sort && change({ sort: target.dataset.sort }));
  $("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => change({ search: $("search").value.trim() }), 250);
  });
  $("topics-more").addEventListener("click", () => change({ limit: MOST }));
}

function change(part) {
  shown = { ...shown, ...part };
  for (const button of $("sorts").querySelectorAll("button")) {
    const { sort } = button.dataset;
    const order = sort === "name" ? "ascending" : "descending";
    if (sort === shown.sort) button.closest("th").setAttribute("aria-sort", order);
    else button.closest("th").removeAttribute("aria-sort");
  }
  refreshTopics();
}

export async function refreshTopics() {
  clearTimeout(timer);
  timer = setTimeout(refreshTopics, REFRESH_MS);
  if (document.hidden || $("topics").hidden) return;
  const mine = (asked += 1);
  const query = new URLSearchParams(shown);
  const answer = await fetch(`${root}/admin/topics?${query}`, { headers: authorized({}), cache: "no-store" }).catch(() => null);
  if (!answer) return; // the broker is away, which the state says
  const found = answer.ok ? await answer.json() : null;
  const problem = answer.ok ? "" : await refusal(answer);
  if (mine !== asked) return; // a later question is under way
  if ($("topics-error").textContent !== problem) $("topics-error").textContent = problem;
  if (found) show(found);
}

function show({ topics, matching, total }) {
  $("topics-count").textContent = shown.search ? `${number.format(matching)} of ${number.format(total)}` : number.format(total);
  $("topics-none").hidden = topics.length > 0;
  $("topics-none").textContent = shown.search ? `No topic has “${shown.search}” in its name.` : "No topics yet. Publish an event to create one.";
  const more = Math.min(matching, MOST) - topics.length;
  $("topics-more").hidden = more <= 0 || shown.limit === MOST;
  $("topics-more").textContent = `Show ${plural(Math.max(more, 1), "more topic")}`;
  const focused = document.activeElement;
  const present = new Set(topics.map(({ topic }) => topic));
  for (const name of rows.keys()) if (!present.has(name)) rows.delete(name);
  $("topic-rows").replaceChildren(...topics.map(row));
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}

function row(info) {
  const { topic } = info;
  if (!rows.has(topic)) rows.set(topic, clone("topic-row"));
  const made = rows.get(topic);
  const [name, subscribers, events, size, kept, keptBytes] = made.children;
  Object.assign(name.firstElementChild, { textContent: topic, href: `#topic=${encodeURIComponent(topic)}` });
  name.lastElementChild.textContent = info.closed ? "closed" : "";
  subscribers.textContent = number.format(info.subscribers);
  events.textContent = short(info.events_per_second);
  size.textContent = bytes(info.bytes_per_second);
  kept.textContent = number.format(info.events);
  keptBytes.textContent = bytes(info.bytes);
  return made;
}
