"""Why streams end."""

from __future__ import annotations

import enum


class CloseReason(enum.StrEnum):
    """Why a stream ended: the same word in the log line and in the metric's label."""

    CLIENT = "client"
    """The peer left."""
    TIMEOUT = "timeout"
    """The peer no longer acknowledged even a heartbeat: the connection was half-open."""
    SLOW = "slow"
    """The log moved past its cursor, or the peer took nothing for `slow_seconds`."""
    ENDED = "ended"
    """All its topics are closed."""
    EXPIRED = "expired"
    """Its token has expired."""
    DISCONNECTED = "disconnected"
    """An operator ended it, or its token was revoked."""
    FLOOD = "flood"
    """The client kept sending after its request; it has nothing to say."""
    MAX_AGE = "max-age"
    """It reached the maximum age. Its client reconnects, perhaps to another instance."""
    DRAINING = "draining"
    """This instance is shutting down."""
    GAP = "gap"
    """Events were lost, and the stream has no control events to report it."""
    ANSWERED = "answered"
    """A long poll got its answer."""


COMPLETE = frozenset(CloseReason) - {
    CloseReason.CLIENT,
    CloseReason.TIMEOUT,
    CloseReason.SLOW,
    CloseReason.FLOOD,
    CloseReason.GAP,
}
"""A stream that is finished for one of these ends with the last chunk: its client has everything that the broker meant to send."""
COMPLETE_IF_SILENT = frozenset({CloseReason.ENDED})
"""The same for a stream without control events: its client can't see why the stream ended."""
