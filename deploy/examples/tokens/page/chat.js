// The page's URL names the answer's topic: after a refresh, or in another tab, the page reads it from the start.
//
// An EventSource reconnects by itself after the last event it saw, so nothing is shown twice. If the browser gives it up, the
// page opens a new one with the same cursor.

const $ = (id) => document.getElementById(id);
const broker = document.querySelector("meta[name=broker]").content;
const AGAIN_MS = 2000;

let source = null;
let cursor = "";
let failed = false;

function say(state, words) {
  $("state").dataset.state = state;
  $("state").textContent = words;
  $("stop").hidden = state !== "writing";
}

function show(topic) {
  $("question").textContent = $("answer").textContent = cursor = "";
  failed = false;
  say("writing", "…");
  follow(topic);
}

function follow(topic) {
  source?.close();
  const start = cursor ? `lastEventId=${cursor}` : "since=earliest";
  source = new EventSource(`${broker}/topics/${topic}?${start}`);
  source.onopen = () => say("writing", "The answer is being written.");
  source.onerror = () => {
    say("writing", "Connecting again …");
    if (source.readyState === EventSource.CLOSED) setTimeout(() => topic === current() && follow(topic), AGAIN_MS);
  };
  source.onmessage = (event) => {
    cursor = event.lastEventId;
    if (event.data !== "[DONE]") $("answer").append(JSON.parse(event.data).choices?.[0]?.delta?.content ?? "");
  };
  hear("prompt", (event) => ($("question").textContent = event.data));
  hear("failure", (event) => { // not "error": EventSource fires that itself
    failed = true;
    $("answer").append(` [${JSON.parse(event.data).message}]`);
  });
  hear("broker.cancel", () => say("stopping", "Stopping …"));
  hear("broker.gap", () => $("answer").append(" [a part is missing here] "));
  hear("broker.end", (event) => {
    source.close();
    const { reason } = JSON.parse(event.data);
    const words = { closed: "Done.", cancelled: "Stopped." };
    say(failed ? "failed" : reason, (!failed && words[reason]) || "The answer was broken off.");
  });
}

function hear(type, told) {
  source.addEventListener(type, (event) => {
    if (event.lastEventId) cursor = event.lastEventId;
    told(event);
  });
}

const current = () => location.hash.slice(1);

async function ask() {
  const answer = await fetch("/chat", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ prompt: $("prompt").value }),
  });
  if (!answer.ok) return say("failed", await answer.text());
  location.hash = (await answer.json()).topic; // the hashchange listener shows it
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask().catch(() => say("failed", "The server can't be reached."));
});
$("stop").addEventListener("click", async () => {
  const answer = await fetch(`/chat/${current()}/stop`, { method: "POST" }).catch(() => null);
  if (!answer?.ok) $("state").textContent = "Stopping failed. Try again."; // the button stays
});
addEventListener("hashchange", () => show(current()));
if (current()) show(current());
