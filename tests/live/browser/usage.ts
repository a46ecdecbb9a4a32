// What a TypeScript application may write with the package's types. The lines after @ts-expect-error must be wrong.
import { follow, type FollowError } from "sse-broker";
import { BrokerChatTransport } from "sse-broker/chat";
import { useAnswer, useTopic } from "sse-broker/react";
import { type UIMessage } from "ai";

const following = follow(["news", "sport"], {
  token: async (reason) => (reason === "expired" ? "new" : null),
  since: "earliest",
  onEvent: ({ topic, data }) => console.log(topic.length + data.length),
  onGap: ({ after, reason }) => console.log(after + reason),
  onEnd: ({ reason }) => console.log(reason?.length),
  onState: ({ state, transport }) => console.log(state === "live" && transport === "polling"),
  // @ts-expect-error: there is no such option
  onEvnt: () => {},
});
following.add("weather", { since: "10m" });
// @ts-expect-error: a topic is text
following.remove(7);
export const collected: string[] = [];
for await (const { id, data } of following) collected.push(id, data);

export const transport = new BrokerChatTransport<UIMessage>({ api: "/api/chat", token: "t" });
export function length(): number {
  const { events, state } = useTopic("news", { limit: 10, shared: true });
  const { text, status } = useAnswer("answer");
  // @ts-expect-error: no such status
  if (status === "finished") return 0;
  return events.length + text.length + state.why.length;
}
export const code = (error: FollowError): string => error.code;
