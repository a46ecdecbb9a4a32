// One topic: its retention, subscribers and last events, and the buttons that end, delete or disconnect it after a question.

import { root } from "./address.js";
import { $, clock, clone, number, text } from "./dom.js";
import { bytes, duration, isTopic, plural, readable, refusal } from "./format.js";
import { authorized } from "./token.js";

const REFRESH_MS = 3000;
const LAST_EVENTS = 20;
const PREVIEW_CHARS = 300;

let topic = ""; // the one that is shown
let timer = 0;
let agreed = () => {}; // what the button of the open question does

export const shownTopic = () => topic;

export function listenToTopic(onChange) {
  const named = () => new URLSearchParams(location.hash.slice(1)).get("topic") ?? "";
  const change = () => {
    topic = isTopic(named()) ? named() : "";
    $("confirm").close(); // its question is about another topic
    onChange();
    if (topic) open();
  };
  addEventListener("hashchange", change);
  $("topic-end").addEventListener("click", askToEnd);
  $("topic-delete").addEventListener("click", askToDelete);
  $("topic-disconnect").addEventListener("click", () => askToDisconnect({ topic }, `all subscribers of ${topic}`));
  $("confirm-no").addEventListener("click", () => $("confirm").close());
  $("confirm-yes").addEventListener("click", () => {
    $("confirm").close();
    agreed();
  });
  change();
}

function open() {
  $("topic-title").textContent = topic;
  $("topic-watch").href = new URL(`topics/${topic}`, `${root}/`).href;
  for (const id of ["topic-facts", "subscriber-rows", "topic-events"]) $(id).replaceChildren();
  $("subscribers-more").textContent = $("topic-problem").textContent = "";
  tell("");
  refreshTopic();
  $("topic-title").focus();
}

const get = (path) => fetch(`${root}/${path}`, { headers: authorized({ Accept: "application/json" }), cache: "no-store" }).catch(() => null);

export async function refreshTopic() {
  clearTimeout(timer);
  if (!topic) return;
  timer = setTimeout(refreshTopic, REFRESH_MS);
  if (document.hidden) return;
  const mine = topic;
  const [details, events] = await Promise.all([get(`admin/topics/${topic}`), get(`topics/${topic}/events?last=${LAST_EVENTS}&limit=${LAST_EVENTS}`)]);
  const [found, page] = await Promise.all([details?.ok ? details.json() : null, events?.ok ? events.json() : null]);
  const problem = details && !found ? await refusal(details) : "";
  const noEvents = events && !page ? await refusal(events) : "";
  if (mine !== topic) return;
  if (found) {
    showFacts(found);
    showSubscribers(found);
  }
  if (!found && !$("topic-facts").children.length) $("subscribers-more").textContent = "Unknown now.";
  if ($("topic-problem").textContent !== problem) $("topic-problem").textContent = problem;
  if (page) showEvents(page.events);
  else if (noEvents) $("topic-events").replaceChildren(item(noEvents));
}

function showFacts({ subscribers, producers, bodies, events, bytes: size, retention, lease_seconds, closed, last_id }) {
  const leased = lease_seconds === null ? "none" : `closes in ${duration(lease_seconds)} unless its producer is heard of`;
  const names = bodies.map(({ subject, age }) => `${subject ?? "without a token"}, for ${duration(age)}`).slice(0, 5);
  const facts = [
    ["Subscribers", number.format(subscribers)],
    ["Producers", producers ? `${number.format(producers)}: ${names.join("; ")}` : "none"],
    ["Keeps", `${plural(events, "event")}, ${bytes(size)}`],
    ["Retention", `${plural(retention.events, "event")}, ${bytes(retention.bytes)}, ${duration(retention.seconds)}`],
    ["Lease", leased],
    ["State", closed ? "closed" : "open"],
    ["Last id", last_id ?? "none"],
  ];
  const list = $("topic-facts");
  while (list.children.length < facts.length) list.append(clone("fact"));
  facts.forEach(([name, value], at) => {
    const [term, slot] = list.children[at].children;
    term.textContent = name;
    if (slot.textContent !== value) slot.textContent = value;
  });
  $("topic-end").disabled = closed;
}

function showSubscribers({ subscribers, streams }) {
  const body = $("subscriber-rows");
  while (body.children.length > streams.length) body.lastElementChild.remove();
  while (body.children.length < streams.length) body.append(clone("subscriber-row"));
  streams.forEach((stream, at) => showSubscriber(body.children[at], stream));
  const hidden = subscribers - streams.length;
  $("subscribers-more").textContent = hidden > 0 ? `and ${number.format(hidden)} more` : subscribers ? "" : "Nobody reads this topic now.";
}

function showSubscriber(row, { address, subject, age, events, bytes: size, behind }) {
  const [from, who, openFor, count, sent, lag, act] = row.children;
  from.textContent = address || "unknown";
  who.textContent = subject ?? "–";
  openFor.textContent = duration(age);
  count.textContent = number.format(events);
  sent.textContent = bytes(size);
  lag.textContent = behind ? duration(behind) : "no";
  lag.className = `number ${behind ? "warn" : ""}`;
  const button = act.firstElementChild;
  button.hidden = subject === null;
  button.setAttribute("aria-label", `Disconnect ${subject}`);
  button.onclick = () => askToDisconnect({ sub: subject }, `all streams of ${subject}`);
}

function showEvents(events) {
  const items = events.reverse().map(({ time, event, data }) => {
    const made = clone("last-event");
    const [when, type, words] = made.children;
    when.textContent = clock.format(new Date(time));
    when.dateTime = time;
    type.textContent = text(event);
    words.textContent = readable(data.slice(0, PREVIEW_CHARS));
    return made;
  });
  $("topic-events").replaceChildren(...(items.length ? items : [item("It keeps no events.")]));
}

const item = (words) => Object.assign(document.createElement("li"), { className: "none", textContent: words });

// The questions

function ask(title, words, button, act) {
  $("confirm-title").textContent = title;
  $("confirm-words").textContent = words;
  $("confirm-yes").textContent = button;
  agreed = act;
  $("confirm").showModal();
}

// The topic in a question stays the one that it names, whatever is shown by the time of the answer.

function askToEnd() {
  const name = topic;
  const words = "No event can follow, and its subscribers' streams end. Its events stay as long as its retention says.";
  ask(`End ${name}?`, words, "End", () => act("POST", `topics/${name}?end=true`, `${name} has ended.`));
}

function askToDelete() {
  const name = topic;
  const words = "All its events are removed for good, and its subscribers' streams end. The name can be used again.";
  ask(`Delete ${name}?`, words, "Delete", () => act("DELETE", `topics/${name}`, `${name} was deleted.`));
}

function askToDisconnect(order, whom) {
  const words = "On all instances, now. They may come back at once: to keep them out, revoke their tokens.";
  ask(`Disconnect ${whom}?`, words, "Disconnect", () => act("POST", "admin/disconnect", "They are being disconnected.", JSON.stringify(order)));
}

async function act(method, path, done, body) {
  const answer = await fetch(`${root}/${path}`, { method, body, headers: authorized(body ? { "Content-Type": "application/json" } : {}) }).catch(() => null);
  if (answer?.ok) tell(done);
  else tell(answer ? await refusal(answer) : "The broker did not answer, so this may or may not have happened.", true);
  refreshTopic();
}

function tell(words, isBad = false) {
  $("topic-result").textContent = words;
  $("topic-result").classList.toggle("error", isBad);
}
