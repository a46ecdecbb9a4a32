// A transport for `useChat` of the AI SDK (`ai` 6, `@ai-sdk/react`): each answer is a topic, so it outlives the page that asked.
//
// The application's server takes the messages, starts the model, pipes its UI message stream into a topic with `?end=true`, and
// returns the topic's name at once. Any tab follows the topic from its beginning.

import { follow } from "../client.js";

/** @import {ChatTransport, UIMessage, UIMessageChunk} from "ai" */
/** @import {End, Options} from "./types.js" */
/**
 * @typedef {Pick<Options, "url" | "token" | "credentials"> & {
 *   api?: string,
 *   headers?: Record<string, string>,
 *   start?: (body: object, signal: AbortSignal | undefined) => Promise<string>,
 *   resume?: (chatId: string) => Promise<string | null>,
 *   cancel?: (topic: string) => Promise<unknown>,
 * }} ChatOptions
 * `start` sends the messages and returns the topic of the answer; by default it posts them to `api`, which answers
 * `{"topic": …}`. `resume` returns the topic of a chat's last answer, or null; by default it gets `api`/`chatId`, which answers
 * the same, or 204. `cancel` asks the producer to stop; by default it asks the broker.
 */

/** The answer ended otherwise than by its last event. */
export class AnswerError extends Error {
  /** @param {string} message @param {string} reason why the topic ended, or "gap" */
  constructor(message, reason) {
    super(message);
    this.name = "AnswerError";
    this.reason = reason;
  }
}

const CANCEL_AGAIN_MS = [1000, 3000, 10_000];

/** @type {Record<string, string>} */
const FAILURES = {
  failed: "The answer failed.",
  abandoned: "The answer broke off: its producer has disappeared.",
  deleted: "The answer was deleted.",
};

/** @template {UIMessage} [M=UIMessage] @implements {ChatTransport<M>} */
export class BrokerChatTransport {
  /** A resumed answer comes from its beginning. */
  resumeStreamIsReplay = true;

  /** @param {ChatOptions} [options] */
  constructor(options = {}) {
    this.options = options;
    this.api = options.api ?? "/api/chat";
  }

  /** @param {Parameters<ChatTransport<M>["sendMessages"]>[0]} request */
  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, headers, body }) {
    const all = { ...body, id: chatId, messages, trigger, messageId };
    const start = this.options.start ?? ((all) => this.#start(all, headers));
    const started = start(all, abortSignal);
    const topic = await Promise.race([started, whenAborted(abortSignal)]).catch((error) => {
      if (abortSignal?.aborted) started.then((topic) => this.#stop(topic, false)).catch(() => {}); // nothing was started
      throw error;
    });
    return this.#follow(topic, abortSignal);
  }

  /** @param {Parameters<ChatTransport<M>["reconnectToStream"]>[0]} request */
  async reconnectToStream({ chatId, abortSignal, headers }) {
    const resume = this.options.resume ?? ((chatId) => this.#ask(`/${encodeURIComponent(chatId)}`, { signal: abortSignal }, headers));
    const topic = await resume(chatId);
    return topic ? this.#follow(topic, abortSignal) : null;
  }

  /**
   * A stop doesn't abort this request: only its answer names the topic to stop.
   * @param {object} body @param {unknown} headers
   */
  async #start(body, headers) {
    const topic = await this.#ask("", { method: "POST", body: JSON.stringify(body) }, headers);
    if (!topic) throw new Error("The server named no topic for the answer.");
    return topic;
  }

  /**
   * @param {string} path @param {RequestInit} init @param {any} headers
   * @returns {Promise<string | null>} the topic that the application's server names
   */
  async #ask(path, init, headers) {
    const all = { "Content-Type": "application/json", ...this.options.headers, ...Object.fromEntries(new Headers(headers)) };
    const answer = await fetch(this.api + path, { ...init, headers: all, credentials: this.options.credentials ?? "same-origin" });
    if (!answer.ok) throw new Error((await answer.text()) || `The server answered ${answer.status}.`);
    return answer.status === 204 ? null : (await answer.json()).topic;
  }

  /**
   * Asks the producer to stop; more than once if it may not have begun, since a cancel finds no producer then.
   * @param {string} topic @param {boolean} hasBegun
   */
  async #stop(topic, hasBegun) {
    const { cancel = (topic) => this.#cancel(topic) } = this.options;
    await cancel(topic);
    for (const ms of hasBegun ? [] : CANCEL_AGAIN_MS) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await cancel(topic);
    }
  }

  /** @param {string} topic */
  async #cancel(topic) {
    const { url = new URL("..", import.meta.url), token, credentials = "same-origin" } = this.options;
    const bearer = typeof token === "function" ? await token("start") : token;
    /** @type {Record<string, string>} */
    const headers = bearer ? { Authorization: `Bearer ${bearer}` } : {};
    const address = `${String(url).replace(/\/*$/, "")}/topics/${encodeURIComponent(topic)}/cancel`;
    const answer = await fetch(address, { method: "POST", headers, credentials, keepalive: true });
    if (!answer.ok) throw new Error(`The broker refused to cancel: ${answer.status}.`);
  }

  /**
   * A chunk is read only when it is asked for, so that an error at the end doesn't discard those before it.
   * @param {string} topic @param {AbortSignal | undefined} abortSignal aborts when the user stops the answer
   * @returns {ReadableStream<UIMessageChunk>}
   */
  #follow(topic, abortSignal) {
    const over = new AbortController();
    const chunks = this.#chunks(topic, abortSignal, over);
    return new ReadableStream(
      {
        async pull(controller) {
          const { done, value } = await chunks.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        cancel: () => over.abort(),
      },
      { highWaterMark: 0 },
    );
  }

  /**
   * @param {string} topic @param {AbortSignal | undefined} abortSignal @param {AbortController} over ends the following
   * @returns {AsyncGenerator<UIMessageChunk, void>}
   */
  async *#chunks(topic, abortSignal, over) {
    const { url, token, credentials } = this.options;
    /** @type {Error | undefined} */
    let failure;
    let hasBegun = false;
    const stop = () => {
      failure = errorFor("cancelled");
      over.abort();
      this.#stop(topic, hasBegun).catch(reportError);
    };
    abortSignal?.addEventListener("abort", stop, { signal: over.signal });
    if (abortSignal?.aborted) stop();
    const events = follow(topic, {
      ...(url && { url }),
      token,
      credentials,
      since: "earliest",
      signal: over.signal,
      onEnd: ({ reason }) => (failure = errorFor(reason)),
      onGap: () => {
        failure = new AnswerError("A part of the answer is lost.", "gap");
        over.abort();
      },
    });
    for await (const { data } of events) {
      hasBegun = true;
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
    if (failure) throw failure;
  }
}

/** @param {AbortSignal | undefined} signal @returns {Promise<never>} which rejects once the user has stopped the answer */
function whenAborted(signal) {
  return new Promise((_, reject) => {
    const stop = () => reject(errorFor("cancelled"));
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** @param {End["reason"]} reason @returns {Error | undefined} what `useChat` gets at the end of an answer, if it isn't a good one */
function errorFor(reason) {
  if (reason === "cancelled") return new DOMException("The answer was stopped.", "AbortError");
  const failure = FAILURES[reason ?? ""];
  return failure ? new AnswerError(failure, reason ?? "") : undefined;
}
