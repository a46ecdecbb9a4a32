/** An event as it was published; `event` is its type, `time` is RFC 3339. */
export interface BrokerEvent {
  topic: string;
  id: string;
  event: string | null;
  time: string;
  data: string;
}

/** Events of `topic` after the cursor `after` can't be delivered any more: "trimmed", "lost" or "unknown-id". */
export interface Gap {
  topic: string;
  after: string;
  reason: string;
}

/** No more events of `topic` will follow. `reason` is null if the topic had ended before and the broker no longer knows why. */
export interface End {
  topic: string;
  reason: string | null;
}

/** Somebody asked the producer of `topic` to stop. */
export interface Cancel {
  topic: string;
}

export type Item =
  | (BrokerEvent & { kind: "event" })
  | (Gap & { kind: "gap" })
  | (End & { kind: "end"; id: string })
  | (Cancel & { kind: "cancel" });

export type StateName = "idle" | "connecting" | "live" | "reconnecting" | "ended" | "failed" | "closed";

export interface State {
  state: StateName;
  /** What went wrong, or "". */
  why: string;
  /** Milliseconds until the next attempt. */
  wait: number;
  /** "polling" where something on the path holds streams back. */
  transport: "stream" | "polling";
}

/** Why a token is asked for. */
export type TokenReason = "start" | "expiring" | "expired" | "revoked" | "unauthorized";

export interface Options {
  /** The broker's address, with its base path; by default the folder of `client.js`. */
  url?: string | URL;
  /** A token, or a function that gets a new one. */
  token?: string | ((reason: TokenReason) => string | null | Promise<string | null>);
  /** Where to start: an id, "earliest", "latest" (the default), an RFC 3339 time, or an age such as "10m". */
  since?: string;
  /** Start with the newest events of each topic, this many. */
  last?: number;
  /** Keep the cursor in `sessionStorage` under this name, so that a reload continues where the page was. */
  keep?: string;
  /** "include" sends cookies to another origin. */
  credentials?: RequestCredentials;
  /** Milliseconds without a byte, heartbeats included, after which the connection counts as dead; default 45,000. */
  silence?: number;
  /** Closes this. */
  signal?: AbortSignal;
  /** One connection for all tabs of this origin that give the same name; `true` is a name too. */
  shared?: boolean | string;
  onEvent?: (event: BrokerEvent) => void;
  onGap?: (gap: Gap) => void;
  onEnd?: (end: End) => void;
  onCancel?: (cancel: Cancel) => void;
  onState?: (state: State) => void;
}

/** What takes the items of a connection. */
export interface Sink {
  /** `before` is the cursor before these items, `cursor` the one after them. */
  deliver(items: Item[], cursor: string, before: string): void;
  state(state: State): void;
  fail(error: Error): void;
  /** Resolves when more may be read. */
  room(): Promise<void> | undefined;
}

/** A connection of this tab, or the one that tabs share. */
export interface Source {
  add(topics: string[], since?: string): void;
  remove(topics: string[]): void;
  close(): void;
}
