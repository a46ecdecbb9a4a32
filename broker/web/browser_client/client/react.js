// React hooks: `useTopic` for the events of topics, `useAnswer` for a text that comes piece by piece.

import { useEffect, useRef, useState } from "react";
import { follow } from "../client.js";

/** @import {BrokerEvent, End, Gap, Options, State} from "./types.js" */
/** @typedef {Omit<Options, "onState" | "signal">} FollowOptions */
/** @typedef {{ events: BrokerEvent[], gaps: Gap[], ends: End[], state: State }} Topic */

/** @type {State} */
const CONNECTING = { state: "connecting", why: "", wait: 0, transport: "stream" };

/**
 * The newest events of one topic or several, at most `limit` (200), with the last gaps and ends. New topics or another `url`, `since`,
 * `last`, `keep`, `credentials` or `shared` begin anew; other options, such as `token` and `onEvent`, may change at any time.
 * @param {string | string[] | null} topics @param {FollowOptions & { limit?: number }} [options] @returns {Topic}
 */
export function useTopic(topics, options = {}) {
  const { limit = 200 } = options;
  const [topic, setTopic] = useState(/** @type {Topic} */ ({ events: [], gaps: [], ends: [], state: CONNECTING }));
  useFollow(topics, options, {
    onStart: () => setTopic({ events: [], gaps: [], ends: [], state: CONNECTING }),
    onEvent: (event) => setTopic((old) => ({ ...old, events: [...old.events, event].slice(-limit) })),
    onGap: (gap) => setTopic((old) => ({ ...old, gaps: [...old.gaps, gap].slice(-limit) })),
    onEnd: (end) => setTopic((old) => ({ ...old, ends: [...old.ends, end].slice(-limit) })),
    onState: (state) => setTopic((old) => ({ ...old, state })),
  });
  return topic;
}

/**
 * @typedef {object} Answer
 * @property {string} text
 * @property {"idle" | "waiting" | "streaming" | "done" | "stopped" | "failed"} status
 * @property {string | null} reason why the topic ended, "gap", or why it can't be followed
 */

/** @type {Answer} */
const NO_ANSWER = { text: "", status: "idle", reason: null };

/**
 * The text that a topic brings piece by piece, from its beginning. `piece` takes the text out of an event; by default it is the
 * event's data.
 * @param {string | null} topic @param {FollowOptions & { piece?: (event: BrokerEvent) => string }} [options] @returns {Answer}
 */
export function useAnswer(topic, options = {}) {
  const { piece = (event) => event.data } = options;
  const [answer, setAnswer] = useState(NO_ANSWER);
  useFollow(topic, { since: "earliest", ...options }, {
    onStart: () => setAnswer({ ...NO_ANSWER, status: topic === null ? "idle" : "waiting" }),
    onEvent: (event) => setAnswer((old) => ({ ...old, text: old.text + piece(event), status: "streaming" })),
    onGap: () => setAnswer((old) => ({ ...old, status: "failed", reason: "gap" })),
    onEnd: ({ reason }) => setAnswer((old) => (old.status === "failed" ? old : { ...old, status: statusFor(reason), reason })),
    onState: ({ state, why }) => state === "failed" && setAnswer((old) => ({ ...old, status: "failed", reason: why })),
  });
  return answer;
}

/** @param {End["reason"]} reason @returns {Answer["status"]} */
function statusFor(reason) {
  if (reason === "cancelled") return "stopped";
  return ["failed", "abandoned", "deleted"].includes(reason ?? "") ? "failed" : "done";
}

/**
 * Follow while the component is there; the callbacks are those of the last rendering.
 * @param {string | string[] | null} topics @param {FollowOptions} options
 * @param {Required<Pick<Options, "onEvent" | "onGap" | "onEnd" | "onState">> & { onStart: () => void }} own
 */
function useFollow(topics, options, own) {
  const last = useRef({ options, own });
  last.current = { options, own };
  const { url, since, last: count, keep, credentials, silence, shared, token } = options;
  const key = JSON.stringify([topics, url && String(url), since, count, keep, credentials, silence, shared, typeof token]);
  useEffect(() => {
    last.current.own.onStart();
    const names = topics === null ? [] : [topics].flat();
    if (!names.length) return;
    /** @param {"onEvent" | "onGap" | "onEnd" | "onCancel"} name */
    const both = (name) => (/** @type {any} */ value) => {
      if (name !== "onCancel") last.current.own[name](value);
      last.current.options[name]?.(value);
    };
    const following = follow(names, {
      ...options,
      token: typeof token === "function" ? (reason) => /** @type {Function} */ (last.current.options.token)(reason) : token,
      onEvent: both("onEvent"),
      onGap: both("onGap"),
      onEnd: both("onEnd"),
      onCancel: both("onCancel"),
      onState: (state) => state.state !== "closed" && last.current.own.onState(state),
    });
    return () => following.close();
  }, [key]);
}
