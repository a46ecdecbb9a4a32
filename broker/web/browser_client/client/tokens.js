// The tokens of a connection that gets them from a function of the page.

/** @import {Options, TokenReason} from "./types.js" */

const EARLY = 0.8; // a token is renewed after this part of its life
const SHORTEST_MS = 10_000; // one that lives no longer is renewed when the broker says that it has expired

/** Keeps one token until it is refused, or until it is about to expire. */
export class Tokens {
  /** @type {string | null | undefined} */
  #token;
  /** @type {TokenReason} */
  #reason = "start";
  #timer = 0;

  /** @param {Exclude<Options["token"], string | undefined>} get @param {() => void} onExpiring the token must be replaced */
  constructor(get, onExpiring) {
    this.get = get;
    this.onExpiring = onExpiring;
  }

  /** @param {AbortSignal} signal @returns {Promise<string | null>} */
  async current(signal) {
    if (this.#token !== undefined) return this.#token;
    signal.throwIfAborted();
    const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
    const token = /** @type {string | null} */ (await Promise.race([this.get(this.#reason), aborted]));
    this.#token = token;
    const left = expiry(token) - Date.now();
    this.close();
    if (left > SHORTEST_MS && left < 2 ** 31)
      this.#timer = setTimeout(() => {
        this.renew("expiring");
        this.onExpiring();
      }, left * EARLY);
    return token;
  }

  /** Have the next `current` get a new token. @param {TokenReason} reason */
  renew(reason) {
    this.#token = undefined;
    this.#reason = reason;
  }

  close() {
    clearTimeout(this.#timer);
  }
}

/** @param {string | null} token @returns {number} when a JWT expires, in ms since 1970; NaN if it doesn't say */
export function expiry(token) {
  try {
    return JSON.parse(atob((token ?? "").split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp * 1000;
  } catch {
    return NaN;
  }
}
