"""Limits how long request connections (all but streams) keep the broker waiting, and how many there are.

Rules: knows no HTTP, and closes no connection itself. One timer serves all connections, in slices.

A process that was stopped for a while (SIGSTOP, a suspended machine) leaves bytes that arrive meanwhile in its sockets. So time in
which the timer could not run doesn't count.

All waits of one kind have the same limit, so a table ordered by their start is also ordered by their expiry: every change is
one step, and the first entry has waited longest.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Sequence, Sized
from typing import Protocol

from broker.metrics import Metrics

SLICE_TIMEOUTS = 50  # each ends a task and perhaps sends an answer; about 2 ms
SWEEP_SECONDS = 1.0
STALL_SECONDS = 1.0
"""A timer that is later than this was stopped, or kept from running."""


class TimeoutReason(enum.StrEnum):
    """Why a request connection timed out: the label of its metric."""

    HEAD = "head"
    """No complete request head arrived in time."""
    BODY = "body"
    """A body that is not streamed did not arrive in time."""
    PAUSE = "pause"
    """A streamed body paused for too long."""
    ANSWER = "answer"
    """The client did not read its answer in time."""
    IDLE = "idle"
    """No further request came; the usual end of a kept connection."""
    ROOM = "room"
    """All descriptors were in use, and this connection had waited longest."""
    MEMORY = "memory"
    """Connections held too many bytes that were not served yet, and this one had held some for longest; or too many answers are unread (`unread_answers`), and this was another."""


class Waiting(Protocol):
    """A connection that waits for a request or sends an answer, or a handler that waits for a body."""

    def time_out(self, reason: TimeoutReason) -> None:
        """A connection closes, at once or after an answer, then calls `ConnectionTimeouts.closed`. A handler's wait ends."""


class ConnectionTimeouts:
    """The waits of all request connections.

    Args:
        streams: the open streams.
        max_descriptors: the limit for streams and request connections together.
        head_seconds: for a request's head from its first byte, and for a new connection's first byte.
        idle_seconds: from an answer to the next request's first byte.
        answer_seconds: for the client to read an answer.
        body_seconds: for a body read whole.
        pause_seconds: between two pieces of a streamed body; 0 for no limit.

    Attributes:
        count: the number of request connections.
        body_seconds, pause_seconds: as above.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        streams: Sized,
        metrics: Metrics,
        *,
        max_descriptors: int,
        head_seconds: float,
        idle_seconds: float,
        answer_seconds: float,
        body_seconds: float,
        pause_seconds: float,
    ) -> None:
        self.count = 0
        self.body_seconds = body_seconds
        self.pause_seconds = pause_seconds
        self._loop = loop
        self._streams = streams
        self._metrics = metrics
        metrics.cut_requests.declare(TimeoutReason)
        self._max_descriptors = max_descriptors
        self._heads: dict[Waiting, float] = {}
        self._idle: dict[Waiting, float] = {}
        self._answers: dict[Waiting, float] = {}
        self._bodies: dict[Waiting, float] = {}
        self._pauses: dict[Waiting, float] = {}
        self._kinds: Sequence[tuple[TimeoutReason, dict[Waiting, float], float]] = (
            (TimeoutReason.HEAD, self._heads, head_seconds),
            (TimeoutReason.IDLE, self._idle, idle_seconds),
            (TimeoutReason.ANSWER, self._answers, answer_seconds),
            (TimeoutReason.BODY, self._bodies, body_seconds),
            (TimeoutReason.PAUSE, self._pauses, pause_seconds or math.inf),
        )
        self._period = min(SWEEP_SECONDS, *(seconds / 4 for _, _, seconds in self._kinds))
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # when the timer is to run; loop time
        self._stalled_seconds = 0.0

    def start(self) -> None:
        """Start the timer."""
        self._schedule()

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def room(self) -> int:
        """How many request connections there may be: as many as streams leave."""
        return self._max_descriptors - len(self._streams)

    # What a connection reports

    def opened(self, connection: Waiting) -> None:
        """`connection` is new. If there are too many, the one that has kept the broker waiting longest times out."""
        self.count += 1
        self._heads[connection] = self._now()
        if self.count > self.room():
            self._make_room()

    def head_started(self, connection: Waiting) -> None:
        """The first bytes of a request have arrived."""
        self._idle.pop(connection, None)
        self._heads.pop(connection, None)  # so that it goes to the end
        self._heads[connection] = self._now()

    def head_complete(self, connection: Waiting) -> None:
        """A request's head is complete; its handler runs without a limit here."""
        self._idle.pop(connection, None)
        self._heads.pop(connection, None)

    def answer_started(self, connection: Waiting) -> None:
        """The answer is ready to be sent."""
        self._answers[connection] = self._now()

    def answer_sent(self, connection: Waiting) -> None:
        """The answer has left; the next request may come."""
        if self._heads:
            self._heads.pop(connection, None)
        if self._answers:
            self._answers.pop(connection, None)
        self._idle.pop(connection, None)  # so that it goes to the end
        self._idle[connection] = self._loop.time() - self._stalled_seconds

    def replaced(self, connection: Waiting, successor: Waiting, *, is_sent: bool) -> None:
        """`successor` is in charge until the client has read the last answer; `is_sent` if it has left.

        If there are too many connections it ends now: the answer may be that to a body that had to make room.
        """
        self._forget_connection(connection)
        table = self._idle if is_sent else self._answers
        table[successor] = self._now()
        if self.count > self.room():
            self._expire(table, successor, TimeoutReason.ROOM)

    def closed(self, connection: Waiting) -> None:
        """`connection` has ended, or has become a stream."""
        self._forget_connection(connection)
        self.count -= 1

    def _forget_connection(self, connection: Waiting) -> None:
        self._heads.pop(connection, None)
        self._idle.pop(connection, None)
        if self._answers:
            self._answers.pop(connection, None)

    # What a handler reports

    def body_awaited(self, wait: Waiting) -> None:
        """A handler waits for a whole body."""
        self._bodies[wait] = self._now()

    def piece_awaited(self, wait: Waiting) -> None:
        """A handler waits for the next piece of a streamed body: from now on, if it waited before."""
        self._pauses.pop(wait, None)  # so that it goes to the end
        self._pauses[wait] = self._loop.time() - self._stalled_seconds

    def body_arrived(self, wait: Waiting) -> None:
        """It waits no longer."""
        self._bodies.pop(wait, None)
        self._pauses.pop(wait, None)

    # Expiry

    def _make_room(self) -> None:
        tables = [table for table in (self._heads, self._idle, self._answers, self._bodies) if table]
        if tables:
            table = min(tables, key=lambda table: next(iter(table.values())))
            self._expire(table, next(iter(table)), TimeoutReason.ROOM)

    def _sweep(self) -> None:
        late = self._loop.time() - self._due
        if late > STALL_SECONDS:
            self._stalled_seconds += late
        is_done = False
        try:
            is_done = self._slice()
        finally:  # a defect of one connection must not stop the timer (I9)
            if is_done:
                self._schedule()
            else:
                self._due = self._loop.time()
                self._timer = self._loop.call_soon(self._sweep)

    def _schedule(self) -> None:
        self._due = self._loop.time() + self._period
        self._timer = self._loop.call_later(self._period, self._sweep)

    def _now(self) -> float:
        return self._loop.time() - self._stalled_seconds

    def _slice(self) -> bool:
        """Expire at most `SLICE_TIMEOUTS` waits. Returns whether none is left."""
        now = self._now()
        left = SLICE_TIMEOUTS
        for reason, table, seconds in self._kinds:
            while left and table:
                connection, since = next(iter(table.items()))
                if now - since < seconds:
                    break
                self._expire(table, connection, reason)
                left -= 1
        return left > 0

    def _expire(self, table: dict[Waiting, float], connection: Waiting, reason: TimeoutReason) -> None:
        del table[connection]
        self._metrics.cut_requests.add(reason)
        connection.time_out(reason)
