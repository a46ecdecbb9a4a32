// Asks for an answer by the chat transport and stops it before the application has named its topic.
// Prints the name of the error that the page gets.

const [, , chat, url, api] = process.argv;
const { BrokerChatTransport } = await import(chat);
const transport = new BrokerChatTransport({ url, api });
const controller = new AbortController();
const answer = transport.sendMessages({
  chatId: "1", messages: [], trigger: "submit-message", messageId: undefined, abortSignal: controller.signal,
});
process.stdin.once("data", () => {
  answer.catch(({ name }) => console.log(name));
  controller.abort();
  process.stdin.pause();
});
