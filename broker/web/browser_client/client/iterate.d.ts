import type { BrokerEvent } from "./types.js";
/** Events between a connection and a loop. */
export declare class EventQueue {
    #private;
    /** @param {BrokerEvent} event */
    push(event: BrokerEvent): void;
    /** No more events will come. @param {unknown} [error] */
    end(error?: unknown): void;
    /** Resolves when more may be read. @returns {Promise<void> | undefined} */
    room(): Promise<void> | undefined;
    [Symbol.asyncIterator](): AsyncGenerator<any, void, unknown>;
}
