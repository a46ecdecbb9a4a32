import type { Item } from "./types.js";
/** @import {Item} from "./types.js" */
/**
 * What sessionStorage keeps under a name: the cursor, the topics that the page has seen events of, and why topics ended, for a later
 * answer says only that they did.
 */
export declare class Kept {
    #private;
    cursor: string;
    /** @param {string} name */
    constructor(name: string);
    /** Called after the page has seen `items`. @param {string} cursor */
    save(cursor: string): void;
    /** Where `topics` go on, if the page saw events of all of them before the reload and adds them for the first time since. @param {string[]} topics */
    start(topics: string[]): string | false;
    /** @param {string[]} topics */
    forget(topics: string[]): void;
    /** Called before the page sees `item`. @param {Item} item */
    complete(item: Item): void;
}
