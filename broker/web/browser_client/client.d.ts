import type { BrokerEvent, Options, Sink, State } from "./client/types.js";
export declare const SILENCE_MS = 45000;
/** The broker refused for good. */
export declare class FollowError extends Error {
    status: number;
    code: string;
    /** @param {string} message */
    constructor(message: string, status?: number, code?: string);
}
/** Decodes an event stream (WHATWG HTML §9.2.6) that arrives in parts. */
export declare class EventParser {
    #private;
    lastEventId: string;
    retry: number;
    commented: boolean;
    /** @param {string} text */
    push(text: string): any[];
}
/** One connection. It comes back until all its topics have ended, or it is refused for good. */
export declare class Connection {
    #private;
    cursor: string;
    options: Options;
    sink: Sink;
    url: string;
    silence: number;
    /** @type {State["transport"]} */
    transport: State["transport"];
    /** @type {Set<string>} */
    topics: Set<string>;
    /** @type {any[]} */
    joining: any[];
    why: string;
    startedAt: number;
    /** @param {Options} options @param {Sink} sink */
    constructor(options: Options, sink: Sink, cursor?: string);
    add(topics: any, since: any, from: any): void;
    remove(topics: any): void;
    close(): void;
    restart(error?: Error): void;
    state(name: any, wait?: number): void;
    heard(): void;
    live(): void;
    deliver(items: any, cursor: any): void;
    over(): null;
    start(): Promise<string[][]>;
    ask(path: any, topics: any, query: any, accept: any): Promise<number | Response>;
}
/** What `follow` returns: topics join and leave it, and `for await` gets its events. */
export declare class Following {
    #private;
    options: Options;
    /** @type {State} */
    state: State;
    cursor: string;
    /** @param {string[]} topics @param {Options} options */
    constructor(topics: string[], options: Options);
    /** Follow further topics, from now on or from `since`. @param {string | string[]} topics @param {{ since?: string }} [options] */
    add(topics: string | string[], { since }?: {
        since?: string;
    }): void;
    /** @param {string | string[]} topics */
    remove(topics: string | string[]): void;
    close(): void;
    /** @returns {AsyncGenerator<BrokerEvent, void, unknown>} */
    [Symbol.asyncIterator](): AsyncGenerator<BrokerEvent, void, unknown>;
}
/** Follow one topic or several. @param {string | string[]} topics @param {Options} [options] */
export declare function follow(topics: string | string[], options?: Options): Following;
