// The watched topics and the start, as the page's address and as a stream's URL.

import { $ } from "./dom.js";
import { TOPIC_RULE, isTopic } from "./format.js";

const base = new URL("..", import.meta.url).pathname; // "/", or the path that all of the broker's URLs begin with
export const root = `${location.origin}${base.slice(0, -1)}`;

export const MAX_TOPICS = 32; // the broker's limit for one request

// By kind: the query parameter, the label of its value, a first value.
export const STARTS = {
  recent: { fixed: ["last", "50"] },
  live: { fixed: ["since", "latest"] },
  earliest: { fixed: ["since", "earliest"] },
  last: { param: "last", label: "N", value: () => "20" },
  since: { param: "since", label: "Age or time", value: () => "10m" },
  id: { param: "lastEventId", label: "Id", value: () => watch.cursor },
};

export const watch = { topics: [], start: { kind: "recent", value: "" }, cursor: "", ended: new Map() };

export function startParams({ kind, value } = watch.start) {
  const { fixed, param } = STARTS[kind];
  return fixed ? [fixed] : param ? [[param, value]] : [];
}

function startFrom(params) {
  if (params.has("lastEventId")) return { kind: "id", value: params.get("lastEventId") };
  if (params.get("since") === "latest") return { kind: "live", value: "" };
  if (params.get("since") === "earliest") return { kind: "earliest", value: "" };
  if (params.has("since")) return { kind: "since", value: params.get("since") };
  if (params.has("last")) return { kind: "last", value: params.get("last") };
  return { kind: "recent", value: "" };
}

function pathTopic() {
  const [, name] = /^topics\/([^/]+)$/.exec(location.pathname.slice(base.length)) ?? [];
  try {
    return name ? [decodeURIComponent(name)] : [];
  } catch {
    return [];
  }
}

// The address is the state: /topics/FIRST#topic=SECOND&last=20. A query is read too, so that a stream's URL works.
export function readAddress() {
  const params = new URLSearchParams(`${location.search.slice(1)}&${location.hash.slice(1)}`);
  const names = [...new Set([...pathTopic(), ...params.getAll("topic")])];
  watch.topics = names.filter(isTopic).slice(0, MAX_TOPICS);
  watch.start = startFrom(params);
  if (watch.topics.length < names.length) $("watch-error").textContent = TOPIC_RULE;
}

export function writeAddress() {
  const [first, ...others] = watch.topics;
  const start = watch.start.kind === "recent" ? [] : startParams();
  const state = new URLSearchParams([...others.map((name) => ["topic", name]), ...start]).toString();
  history.replaceState(null, "", base + (first ? `topics/${first}` : "topics") + (state && `#${state}`));
  document.title = first ? `${watch.topics.join(", ")} · sse-broker` : "sse-broker";
}

// A link to the events after an id.
export const linkAfter = (topic, id) => `${base}topics/${encodeURIComponent(topic)}#${new URLSearchParams({ lastEventId: id })}`;

export const historyUrl = (query) => `${root}/events?${new URLSearchParams([...watch.topics.map((name) => ["topic", name]), ...query])}`;

export function streamUrl(start) {
  const query = [...watch.topics.map((name) => ["topic", name]), ...start, ["envelope", "json"]];
  return `${root}/topics?${new URLSearchParams(query)}`;
}
