"""The state of a subscriber that can't be brought up to date by one write."""

from __future__ import annotations


class Lag:
    """The state of a lagging subscriber.

    Attributes:
        since: when it began to lag.
        replay_from: when the stream began, if it still replays kept events; else 0.
        pending: bytes that the peer has yet to acknowledge.
        moved_at: when `pending` last changed.
        unanswered: it lags only because the peer hasn't acknowledged earlier bytes in a heartbeat's time.
        control_event: the latest one that waits until the subscriber can be written to, as it goes over the wire; else empty.
    """

    __slots__ = ("control_event", "moved_at", "pending", "replay_from", "since", "unanswered")

    def __init__(self, now: float, *, unanswered: bool = False) -> None:
        self.since = now
        self.replay_from = 0.0
        self.pending = -1
        self.moved_at = now
        self.unanswered = unanswered
        self.control_event = b""

    def continues(self, former: Lag) -> None:
        """This is the same lag as `former`: the subscriber was written something meanwhile, and not all that it lacked."""
        self.since, self.replay_from = former.since, former.replay_from
