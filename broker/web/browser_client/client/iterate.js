// The events of `follow` for `for await`.

/** @import {BrokerEvent} from "./types.js" */

const MAX_WAITING = 256; // events that wait for a slow loop; then no more are read from the connection

/** Events between a connection and a loop. */
export class EventQueue {
  /** @type {BrokerEvent[]} */
  #events = [];
  #changed = () => {};
  #drained = () => {};
  #isOver = false;
  /** @type {unknown} */
  #error;

  /** @param {BrokerEvent} event */
  push(event) {
    this.#events.push(event);
    this.#changed();
  }

  /** No more events will come. @param {unknown} [error] */
  end(error) {
    this.#isOver = true;
    this.#error = error;
    this.#changed();
  }

  /** Resolves when more may be read. @returns {Promise<void> | undefined} */
  room() {
    if (this.#events.length > MAX_WAITING) return new Promise((resolve) => (this.#drained = resolve));
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      for (let event; (event = this.#events.shift()); ) {
        this.#drained();
        yield event;
      }
      if (this.#error) throw this.#error;
      if (this.#isOver) return;
      await new Promise((resolve) => (this.#changed = () => resolve(null)));
    }
  }
}
