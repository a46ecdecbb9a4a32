import type { Connection } from "../client.js";
import type { Item } from "./types.js";
/**
 * A page of the events that `topics` keep, or get within `wait` seconds; or a number: ms until the next attempt.
 * @param {Connection} connection @param {Iterable<string>} topics @param {string[][]} query
 * @returns {Promise<{ items: Item[], cursor: string, more: boolean, closed: boolean } | number>}
 */
export declare function page(connection: Connection, topics: Iterable<string>, query: string[][], wait?: number): Promise<{
    items: Item[];
    cursor: string;
    more: boolean;
    closed: boolean;
} | number>;
/**
 * All that `topics` keep from `query` on; or a number: ms until the next attempt.
 * @param {Connection} connection @param {string[]} topics @param {string[][]} query
 * @returns {Promise<{ items: Item[], cursor: string } | number>}
 */
export declare function allPages(connection: Connection, topics: string[], query: string[][]): Promise<{
    items: Item[];
    cursor: string;
} | number>;
/** Poll until it is time to try a stream again. @param {Connection} connection @returns {Promise<number | null>} */
export declare function poll(connection: Connection): Promise<number | null>;
/**
 * Take further topics in. The cursor may be old, and the new topics may have had events since; so the old topics are read to their
 * end first, and the cursor with them.
 * @param {Connection} connection @returns {Promise<number>} ms until the next attempt, if the broker refuses
 */
export declare function join(connection: Connection): Promise<number>;
/**
 * The query for a start at `since` that was first asked for at `startedAt`: an age counts back from now, so it grows.
 * @param {string} since @param {number} startedAt
 */
export declare function startLater(since: string, startedAt: number): string[][];
/** @param {string} a @param {string} b @returns {boolean} whether id `a` is newer than `b`; any id is newer than "" */
export declare function isNewer(a: string, b: string): boolean;
