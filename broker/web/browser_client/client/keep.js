// Keeps a cursor over reloads of a tab.

/** @import {Item} from "./types.js" */

/** What sessionStorage keeps under a name: the cursor, and why topics ended, for a later answer says only that they did. */
export class Kept {
  cursor = "";
  /** @type {Record<string, string | null>} */
  #ends = {};
  #key;

  /** @param {string} name */
  constructor(name) {
    this.#key = `broker:${name}`;
    try {
      const kept = sessionStorage.getItem(this.#key);
      if (kept) [this.cursor, this.#ends] = JSON.parse(kept);
    } catch {} // storage is forbidden, or has something else: start as if nothing was kept
  }

  /** Called after the page has seen `items`. @param {string} cursor */
  save(cursor) {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify([cursor, this.#ends]));
    } catch {} // storage is full or forbidden: a reload starts anew
  }

  /** Called before the page sees `item`. @param {Item} item */
  complete(item) {
    if (item.kind === "end") this.#ends[item.topic] = item.reason ??= this.#ends[item.topic] ?? null;
  }
}
