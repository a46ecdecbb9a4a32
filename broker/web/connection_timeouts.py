"""Connections that are no streams: how long each may keep the broker waiting, and how many there may be.

Rules: knows no HTTP and closes nothing by itself: it tells a connection that its time is up. One timer for all, cut into
slices like the walk over the streams.

All waits of one kind may last equally long. So a table in the order in which they began is in the order in which they
end: to begin or end one is a single step, whatever their number, and whoever has waited longest comes first.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Protocol

SLICE_CUTS = 50  # each costs the end of a task and perhaps an answer; about 2 ms
SWEEP_SECONDS = 1.0


class TimeoutReason(enum.StrEnum):
    """Why a connection that is no stream was cut: the label of its metric."""

    HEAD = "head"
    """No request, or not all of its head, came in time."""
    BODY = "body"
    """A body that isn't streamed was not whole in time."""
    PAUSE = "pause"
    """Nothing came of a streamed body for too long."""
    ANSWER = "answer"
    """An answer was not taken in time."""
    IDLE = "idle"
    """Nothing was asked for since the last answer; the usual end of a connection that is kept."""
    ROOM = "room"
    """The descriptors were all in use, and it had waited for longest."""


class RequestConnection(Protocol):
    """What is known here of a connection."""

    def cut(self, why: TimeoutReason) -> None:
        """End it, at once or after a word; `closed` follows."""


class ConnectionTimeouts:
    """See the module.

    Args:
        loop: for its time and its one timer.
        room: how many connections that are no streams there may be, now.
        on_cut: called once for each connection that is cut.
        head_seconds: for a request's head from its first byte, and for that byte from the connection's first moment.
        idle_seconds: from an answer to the next request's first byte.
        answer_seconds: for an answer to be taken.

    Attributes:
        count: the connections there are.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        room: Callable[[], int],
        on_cut: Callable[[TimeoutReason], None],
        head_seconds: float,
        idle_seconds: float,
        answer_seconds: float,
    ) -> None:
        self.count = 0
        self._loop = loop
        self._room = room
        self._on_cut = on_cut
        self._heads: dict[RequestConnection, float] = {}
        self._idle: dict[RequestConnection, float] = {}
        self._answers: dict[RequestConnection, float] = {}
        self._kinds = (
            (TimeoutReason.HEAD, self._heads, head_seconds),
            (TimeoutReason.IDLE, self._idle, idle_seconds),
            (TimeoutReason.ANSWER, self._answers, answer_seconds),
        )
        self._period = min(SWEEP_SECONDS, *(seconds / 4 for _, _, seconds in self._kinds))
        self._timer: asyncio.Handle | None = None

    def start(self) -> None:
        """Look for those whose time is up from now on."""
        self._timer = self._loop.call_later(self._period, self._sweep)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    # What a connection tells of itself

    def opened(self, connection: RequestConnection) -> None:
        """It is new. Where there is no more room, the one that has waited for a request longest goes; it may be this one."""
        self.count += 1
        self._heads[connection] = self._loop.time()
        if self.count > self._room():
            self._make_room()

    def head_began(self, connection: RequestConnection) -> None:
        """Something of a request has come."""
        self._forget(connection)
        self._heads[connection] = self._loop.time()

    def request_came(self, connection: RequestConnection) -> None:
        """The head is whole; what follows is the handler's time."""
        self._forget(connection)

    def answer_began(self, connection: RequestConnection) -> None:
        """Its answer is ready to be sent."""
        self._answers[connection] = self._loop.time()

    def answered(self, connection: RequestConnection) -> None:
        """The answer has been taken; the next request may come."""
        self._forget(connection)
        self._idle[connection] = self._loop.time()

    def closed(self, connection: RequestConnection) -> None:
        """It has ended, or is a stream now."""
        self._forget(connection)
        self.count -= 1

    def _forget(self, connection: RequestConnection) -> None:
        if self._heads.pop(connection, None) is None and self._idle.pop(connection, None) is None:
            self._answers.pop(connection, None)

    # Ends

    def _make_room(self) -> None:
        firsts = [next(iter(table.items())) for table in (self._heads, self._idle) if table]
        if firsts:
            longest, _ = min(firsts, key=lambda first: first[1])
            self._cut(longest, TimeoutReason.ROOM)

    def _sweep(self) -> None:
        done = False
        try:
            done = self._slice()
        finally:  # a defect with one connection is not everybody's (I9)
            self._timer = (
                self._loop.call_later(self._period, self._sweep)
                if done
                else self._loop.call_soon(self._sweep)
            )

    def _slice(self) -> bool:
        """Whether nobody is left whose time is up."""
        now = self._loop.time()
        left = SLICE_CUTS
        for why, table, seconds in self._kinds:
            while left and table:
                connection, since = next(iter(table.items()))
                if now - since < seconds:
                    break
                self._cut(connection, why)
                left -= 1
        return left > 0

    def _cut(self, connection: RequestConnection, why: TimeoutReason) -> None:
        self._forget(connection)
        self._on_cut(why)
        connection.cut(why)
