import type { Item, Options, Sink, Source, State } from "./types.js";
export type Message = {
    type: "batch";
    topics: string[];
    items: Item[];
    cursor: string;
    before: string;
} | {
    type: "lead";
} | {
    type: "state";
    state: State;
} | {
    type: "fail";
    error: Error;
} | {
    type: "leave";
    tab: string;
} | {
    type: "want";
    tab: string;
    topics: string[];
    from: string;
} | {
    type: "ping";
} | {
    type: "pong";
} | {
    type: "alone";
    tab: string;
};
/** A tab's share in the connection. @implements {Source} */
export declare class SharedConnection implements Source {
    #private;
    options: Options;
    sink: Sink;
    cursor: string;
    name: string;
    channel: BroadcastChannel;
    /** @param {Options} options @param {Sink} sink @param {string} cursor */
    constructor(options: Options, sink: Sink, cursor: string);
    /** @param {string[]} topics @param {string} [since] */
    add(topics: string[], since?: string): void;
    /** @param {string[]} topics */
    remove(topics: string[]): void;
    close(): void;
    /** For the leader. @param {Message} message */
    post(message: Message): void;
}
