// Keeps a cursor over reloads of a tab.

/** @import {Item} from "./types.js" */

/**
 * What sessionStorage keeps under a name: the cursor, the topics that the page has seen events of, and why topics ended, for a later
 * answer says only that they did.
 */
export class Kept {
  cursor = "";
  /** @type {Record<string, string | null>} */
  #ends = {};
  /** @type {Set<string>} */
  #topics = new Set();
  /** @type {Set<string>} of `#topics`, those that were not added since the reload */
  #before = new Set();
  #from = ""; // the cursor at the reload
  #key;

  /** @param {string} name */
  constructor(name) {
    this.#key = `broker:${name}`;
    try {
      const kept = sessionStorage.getItem(this.#key);
      if (kept) {
        const [cursor, ends, topics = []] = JSON.parse(kept);
        this.cursor = this.#from = cursor;
        [this.#ends, this.#topics, this.#before] = [ends, new Set(topics), new Set(topics)];
      }
    } catch {} // storage is forbidden, or has something else: start as if nothing was kept
  }

  /** Called after the page has seen `items`. @param {string} cursor */
  save(cursor) {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify([cursor, this.#ends, [...this.#topics]]));
    } catch {} // storage is full or forbidden: a reload starts anew
  }

  /** Where `topics` go on, if the page saw events of all of them before the reload and adds them for the first time since. @param {string[]} topics */
  start(topics) {
    return topics.filter((topic) => this.#before.delete(topic)).length === topics.length && this.#from;
  }

  /** @param {string[]} topics */
  forget(topics) {
    for (const topic of topics) this.#topics.delete(topic);
  }

  /** Called before the page sees `item`. @param {Item} item */
  complete(item) {
    this.#topics.add(item.topic);
    if (item.kind === "end") this.#ends[item.topic] = item.reason ??= this.#ends[item.topic] ?? null;
  }
}
