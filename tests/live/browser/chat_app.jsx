// A chat as an application would write it: useChat of the AI SDK, with the broker's transport. The address says which chat.
import { useChat } from "@ai-sdk/react";
import { useState } from "react";
import { createRoot } from "react-dom/client";
import { BrokerChatTransport } from "sse-broker/chat";
import { useAnswer, useTopic } from "sse-broker/react";

const { broker, chat } = Object.fromEntries(new URLSearchParams(location.search));
const transport = new BrokerChatTransport({ url: broker });

function Chat() {
  const [end, setEnd] = useState("");
  const onFinish = ({ isAbort, isError }) => setEnd(isAbort ? "stopped" : isError ? "failed" : "done");
  const { messages, sendMessage, status, stop, error } = useChat({ id: chat, transport, resume: true, onFinish });
  const answers = messages.filter(({ role }) => role === "assistant");
  const text = answers.flatMap(({ parts }) => parts.filter(({ type }) => type === "text").map(({ text }) => text)).join("");
  return (
    <main>
      <button id="send" onClick={() => sendMessage({ text: "A question" })} />
      <button id="stop" onClick={() => stop()} />
      <output id="text">{text}</output>
      <output id="status">{status}</output>
      <output id="end">{end}</output>
      <output id="error">{error?.message}</output>
    </main>
  );
}

function Hooks() {
  const [topic, setTopic] = useState(null);
  const answer = useAnswer(topic, { url: broker });
  const { events, ends, state } = useTopic(["news", "sport"], { url: broker, limit: 3 });
  return (
    <main>
      <button id="ask" onClick={() => setTopic("answer")} />
      <output id="answer">{JSON.stringify(answer)}</output>
      <output id="events">{JSON.stringify(events.map(({ data }) => data))}</output>
      <output id="ends">{JSON.stringify(ends)}</output>
      <output id="state">{state.state}</output>
    </main>
  );
}

createRoot(document.body).render(chat ? <Chat /> : <Hooks />);
