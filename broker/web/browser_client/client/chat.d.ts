import type { ChatTransport, UIMessage, UIMessageChunk } from "ai";
import type { Options } from "./types.js";
export type ChatOptions = Pick<Options, "url" | "token" | "credentials"> & {
    api?: string;
    headers?: Record<string, string>;
    start?: (body: object, signal: AbortSignal | undefined) => Promise<string>;
    resume?: (chatId: string) => Promise<string | null>;
    cancel?: (topic: string) => Promise<unknown>;
};
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
export declare class AnswerError extends Error {
    reason: string;
    /** @param {string} message @param {string} reason why the topic ended, or "gap" */
    constructor(message: string, reason: string);
}
/** @template {UIMessage} [M=UIMessage] @implements {ChatTransport<M>} */
export declare class BrokerChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
    #private;
    options: ChatOptions;
    api: string;
    /** A resumed answer comes from its beginning. */
    resumeStreamIsReplay: boolean;
    /** @param {ChatOptions} [options] */
    constructor(options?: ChatOptions);
    /** @param {Parameters<ChatTransport<M>["sendMessages"]>[0]} request */
    sendMessages({ chatId, messages, trigger, messageId, abortSignal, headers, body }: Parameters<ChatTransport<M>["sendMessages"]>[0]): Promise<ReadableStream<UIMessageChunk>>;
    /** @param {Parameters<ChatTransport<M>["reconnectToStream"]>[0]} request */
    reconnectToStream({ chatId, abortSignal, headers }: Parameters<ChatTransport<M>["reconnectToStream"]>[0]): Promise<ReadableStream<UIMessageChunk> | null>;
}
