// The user's questions are a topic, and each answer is one. After a refresh, or in another tab, the page reads them again.
//
// All topics come on one connection, which all tabs share. What a model says becomes HTML only by DOMPurify; the server's
// Content-Security-Policy makes the browser refuse any other way.

import { follow } from "/client/client.js";

const $ = (id) => document.getElementById(id);
const { content: user } = document.querySelector("meta[name=user]");
const { content: url } = document.querySelector("meta[name=broker]");
const questions = `chats.${user}.questions`;
const ENDS = { closed: "", cancelled: "Stopped.", failed: "The model failed.", deleted: "Deleted." };

/** A question, and its answer as far as it has come. */
class Turn {
  text = "";
  state = "writing";

  constructor({ question, answer }) {
    this.topic = answer;
    this.element = $("turn").content.cloneNode(true).firstElementChild;
    this.find(".question").textContent = question;
    this.find(".stop").onclick = () => this.stop();
    this.draw();
  }

  find = (selector) => this.element.querySelector(selector);

  add(piece) {
    this.text += piece;
    this.scheduled ??= requestAnimationFrame(() => this.draw());
  }

  end(state, words) {
    this.state = state;
    this.find(".end").textContent = words;
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.scheduled);
    this.scheduled = null;
    const isAtEnd = scrollY + innerHeight >= document.documentElement.scrollHeight - 40;
    this.element.dataset.state = this.state;
    this.find(".answer").replaceChildren(rendered(this.text));
    if (isAtEnd) scrollTo(0, document.documentElement.scrollHeight);
  }

  async stop() {
    for (let tries = 0; this.state === "writing" && tries < 5; tries += 1) {
      const answer = await post("/stop", { answer: this.topic }).catch(() => null);
      if (!answer?.ok) break;
      await new Promise((resolve) => setTimeout(resolve, 1000)); // a producer that has not begun yet hears nothing
    }
    if (this.state === "writing") this.find(".end").textContent = "Stopping failed. Try again."; // the button stays
  }
}

/** Markdown as a safe fragment; plain text while its libraries are not there. */
function rendered(text) {
  const { marked, DOMPurify } = globalThis;
  if (!marked || !DOMPurify) return Object.assign(document.createElement("pre"), { textContent: text });
  const fragment = DOMPurify.sanitize(marked.parse(text), {
    USE_PROFILES: { html: true },
    FORBID_TAGS: ["form", "img", "input", "style"], // an image's address could carry text away
    FORBID_ATTR: ["id", "name", "style"],
    RETURN_DOM_FRAGMENT: true,
    RETURN_TRUSTED_TYPE: false,
  });
  for (const link of fragment.querySelectorAll("a")) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  return fragment;
}

const turns = new Map(); // by the answer's topic

const chat = follow(questions, {
  url,
  last: 20,
  shared: user,
  token: async () => {
    const answer = await fetch("/token");
    if (!answer.ok) throw new Error(await answer.text());
    return answer.text();
  },
  onEvent({ topic, data }) {
    if (topic === questions) begin(JSON.parse(data));
    else turns.get(topic)?.add(data);
  },
  onGap: ({ topic }) => turns.get(topic)?.add("\n\n*A part is missing here.*\n\n"),
  onCancel: ({ topic }) => turns.get(topic) && (turns.get(topic).find(".end").textContent = "Stopping …"),
  onEnd({ topic, reason }) {
    turns.get(topic)?.end(reason ?? "closed", ENDS[reason ?? "closed"] ?? "Broken off.");
  },
  onState: ({ state, why }) => ($("state").textContent = { reconnecting: "Connecting again …", failed: why }[state] ?? ""),
});

function begin(asked) {
  if (turns.has(asked.answer)) return;
  $("empty").hidden = true;
  const turn = new Turn(asked);
  turns.set(asked.answer, turn);
  $("chat").append(turn.element);
  scrollTo(0, document.documentElement.scrollHeight);
  chat.add(asked.answer, { since: "earliest" });
}

const post = (path, body) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await post("/ask", { question: $("question").value }).catch(() => null);
  if (answer?.ok) $("question").value = $("state").textContent = "";
  else $("state").textContent = answer ? await answer.text() : "The server can't be reached.";
});
addEventListener("load", () => turns.forEach((turn) => turn.draw())); // the libraries are there
