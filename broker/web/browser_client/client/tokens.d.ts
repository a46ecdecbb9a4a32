import type { Options, TokenReason } from "./types.js";
/** Keeps one token until it is refused, or until it is about to expire. */
export declare class Tokens {
    #private;
    get: (reason: TokenReason) => string | null | Promise<string | null>;
    onExpiring: () => void;
    /** @param {Exclude<Options["token"], string | undefined>} get @param {() => void} onExpiring the token must be replaced */
    constructor(get: Exclude<Options["token"], string | undefined>, onExpiring: () => void);
    /** @param {AbortSignal} signal @returns {Promise<string | null>} */
    current(signal: AbortSignal): Promise<string | null>;
    /** Have the next `current` get a new token. @param {TokenReason} reason */
    renew(reason: TokenReason): void;
    close(): void;
}
/** @param {string | null} token @returns {number} when a JWT expires, in ms since 1970; NaN if it doesn't say */
export declare function expiry(token: string | null): number;
