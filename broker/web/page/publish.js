// Publishing, and snippets of code that watch and publish.

import { root, startParams, streamUrl, watch } from "./address.js";
import { $, copy } from "./dom.js";
import { TOPIC_RULE, isTopic, refusal } from "./format.js";
import { authorized, refusedToken } from "./token.js";

let publishing = false;

const publishForm = () => ({
  topic: $("publish-topic").value.trim(), type: $("publish-type").value, data: $("publish-data").value,
});

function publishUrl({ topic, type }) {
  const query = new URLSearchParams(type && { event: type }).toString();
  return `${root}/topics/${topic}${query && `?${query}`}`;
}

export async function publish() {
  const form = publishForm();
  if (publishing) return;
  if (!isTopic(form.topic)) {
    publishResult(TOPIC_RULE, true);
    return;
  }
  publishing = true;
  const headers = authorized({ "Content-Type": "text/plain; charset=utf-8", Accept: "application/json" });
  try {
    const answer = await fetch(publishUrl(form), { method: "POST", headers, body: form.data });
    if (answer.ok) publishResult(`Published to ${form.topic} as ${(await answer.json()).id}.`, false, form.topic);
    else {
      refusedToken(answer);
      publishResult(await refusal(answer), true);
    }
  } catch {
    publishResult("The broker did not answer, so the event may or may not have been published.", true);
  } finally {
    publishing = false;
  }
}

function publishResult(words, bad, topic = "") {
  $("publish-result").textContent = words;
  $("publish-result").classList.toggle("error", bad);
  $("publish-watch").hidden = !isTopic(topic) || watch.topics.includes(topic);
  $("publish-watch").textContent = `Watch ${topic}`;
  $("publish-watch").dataset.topic = topic;
}

const shell = (value) => `'${value.replaceAll("'", "'\\''")}'`;

export function showSnippets() {
  const [only] = watch.topics.length === 1 ? watch.topics : [];
  const query = new URLSearchParams(startParams()).toString();
  const curlUrl = only ? `${root}/topics/${only}${query && `?${query}`}` : streamUrl(startParams());
  const none = "Watch a topic first.";
  $("watch-curl").textContent = watch.topics.length ? `curl -N ${shell(curlUrl)}` : none;
  $("watch-js").textContent = watch.topics.length ? watchScript(streamUrl(startParams())) : none;
  const form = publishForm();
  if (!isTopic(form.topic)) form.topic = "TOPIC";
  $("publish-curl").textContent = `curl --data-binary ${shell(form.data || "hello")} \\\n  ${shell(publishUrl(form))}`;
}

const watchScript = (url) => `const source = new EventSource(${JSON.stringify(url)});
source.onmessage = (sent) => {
  const { topic, id, event, time, data } = JSON.parse(sent.data);
  console.log(topic, id, event, data);
};
source.addEventListener("broker.gap", (gap) => console.warn("gap", gap.data));
source.addEventListener("broker.end", (end) => console.info("end", end.data));`;

export function copySnippet({ target }) {
  if (target.dataset.snippet) copy($(target.dataset.snippet).textContent, target);
}
