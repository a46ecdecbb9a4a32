// useChat of the AI SDK with the broker's transport. The address names the chat: F5, or a second tab, shows it again.
import { useChat } from "@ai-sdk/react";
import { useState } from "react";
import { createRoot } from "react-dom/client";
import { BrokerChatTransport } from "sse-broker/chat";

const id = location.hash.slice(1) || crypto.randomUUID();
history.replaceState(null, "", `#${id}`);

const transport = new BrokerChatTransport({
  url: document.querySelector("meta[name=broker]").content,
  token: async () => (await fetch(`/api/chat/${id}/token`)).json(),
  cancel: (topic) => fetch(`/api/stop/${topic}`, { method: "POST" }),
});

function Chat({ earlier }) {
  const [end, setEnd] = useState("");
  const { messages, sendMessage, stop, status, error } = useChat({
    id,
    messages: earlier, // up to the last question; the answer to it comes from its topic, whether or not it has ended
    resume: earlier.length > 0,
    transport,
    onFinish: ({ isAbort }) => setEnd(isAbort ? "Stopped." : ""),
  });
  const isWriting = ["submitted", "streaming"].includes(status);

  const ask = (event) => {
    event.preventDefault();
    const { question } = event.target.elements;
    setEnd("");
    sendMessage({ text: question.value });
    question.value = "";
  };

  return (
    <>
      <main>
        {messages.map(({ id, role, parts }) => (
          <p key={id} className={role}>
            {parts.map(({ type, text }) => type === "text" && text)}
          </p>
        ))}
      </main>
      <p id="state" role="status" data-status={status}>
        {error ? error.message : isWriting ? "…" : end}
      </p>
      <form onSubmit={ask}>
        <input name="question" aria-label="Your question" placeholder="Your question" autoComplete="off" required autoFocus />
        {isWriting ? <button type="button" onClick={stop}>Stop</button> : <button>Ask</button>}
      </form>
    </>
  );
}

const answer = await fetch(`/api/chat/${id}`);
const earlier = answer.status === 200 ? (await answer.json()).messages : [];
createRoot(document.getElementById("chat")).render(<Chat earlier={earlier} />);
