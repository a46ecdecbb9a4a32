import type { BrokerEvent, End, Gap, Options, State } from "./types.js";
export type FollowOptions = Omit<Options, "onState" | "signal">;
export type Topic = {
    events: BrokerEvent[];
    gaps: Gap[];
    ends: End[];
    state: State;
};
/**
 * The newest events of one topic or several, at most `limit` (200), with the last gaps and ends. New topics or another `url`, `since`,
 * `last`, `keep`, `credentials` or `shared` begin anew; other options, such as `token` and `onEvent`, may change at any time.
 * @param {string | string[] | null} topics @param {FollowOptions & { limit?: number }} [options] @returns {Topic}
 */
export declare function useTopic(topics: string | string[] | null, options?: FollowOptions & {
    limit?: number;
}): Topic;
export type Answer = {
    text: string;
    status: "idle" | "waiting" | "streaming" | "done" | "stopped" | "failed";
    /**
     * why the topic ended, "gap", or why it can't be followed
     */
    reason: string | null;
};
/**
 * The text that a topic brings piece by piece, from its beginning. `piece` takes the text out of an event; by default it is the
 * event's data.
 * @param {string | null} topic @param {FollowOptions & { piece?: (event: BrokerEvent) => string }} [options] @returns {Answer}
 */
export declare function useAnswer(topic: string | null, options?: FollowOptions & {
    piece?: (event: BrokerEvent) => string;
}): Answer;
