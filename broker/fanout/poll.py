"""A long poll: a subscriber that gets one whole answer, as soon as there is an event for it, and no stream.

Rules: fan-out doesn't know the difference. A write only wakes the poll, which then gets its answer made and sends it. If the
stream would end, the poll gets an empty answer. So a waiting poll costs as little as a silent stream, and needs no task.
"""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar, Protocol

from broker.auth.grants import Caller
from broker.events import EventId
from broker.fanout.close_reason import CloseReason
from broker.fanout.lag import Lag
from broker.fanout.subscriber import NO_SOCKET, Subscriber, SubscriberOwner


class Responder(Protocol):
    """Makes the answer to a poll."""

    def respond(self, reason: CloseReason | None) -> bytes | None:
        """The whole answer as it goes over the wire: with a reason, in any case; with None, only if there is something to give."""

    def hold(self, size: int) -> bool:
        """The poll's transport holds `size` bytes of it, until `release`. Returns whether it may."""

    def release(self) -> None:
        """The poll holds nothing of the answer, or nothing any more."""


class Timer(Protocol):
    """What `loop.call_later` returns, of any loop."""

    def cancel(self) -> None: ...


class PollOwner(SubscriberOwner, Protocol):
    """The hub."""

    def answered(self, poll: Poll) -> None:
        """The answer is on its way: end the poll, but not within this call."""


class Poll(Subscriber):
    """A connection that waits for the first event.

    Attributes:
        timer: ends the wait.
    """

    WRITES: ClassVar[int] = 8
    """It makes an answer, and ends in the same turn."""

    __slots__ = ("_has_answered", "_hub", "_kept_descriptor", "_responder", "timer")

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: PollOwner,
        caller: Caller,
        cursor: EventId,
        now: float,
        responder: Responder,
    ) -> None:
        super().__init__(transport, owner, caller, cursor, now)
        self.timer: Timer | None = None
        self.wrote_at = math.inf  # it gets no heartbeats
        self._hub = owner
        self._responder = responder
        self._has_answered = False
        self._kept_descriptor = self.descriptor
        self.descriptor = NO_SOCKET  # so that fan-out calls `write` instead of writing by itself

    def write(self, chunk: bytes, now: float) -> None:
        """Events have come, or the end of one of several topics: answer if there is an event for this poll."""
        if chunk and not self._has_answered:
            answer = self._responder.respond(None)
            if answer is not None:
                self._send(answer, now)
                self._hub.answered(self)

    def finish(self, reason: CloseReason, last: bytes, now: float) -> None:
        """Send the answer, if it wasn't sent, and close. `last` is for streams.

        A client that shuts down its sending side may have left, or may still want its answer.
        """
        if not self._has_answered:
            answer = self._responder.respond(reason)
            assert answer is not None
            self._send(answer, now)
        self._cancel_timer()
        super().finish(reason, b"", now)

    def _send(self, answer: bytes, now: float) -> None:
        self._has_answered = True
        self.descriptor = self._kept_descriptor
        if answer and self.is_flushed():
            super().write(answer, now)
        elif answer:  # the answer to an earlier request on the same connection is still on its way
            self.write_behind(answer, now)
        self.lag = self.lag or Lag(now)  # nothing more is written to it
        if answer:  # else its transport takes it elsewhere
            unread = self._transport.get_write_buffer_size()
            if not unread:
                self._responder.release()
            elif not self._responder.hold(unread):
                self.cut(CloseReason.SLOW)

    def is_stuck(self, now: float, slow_seconds: float) -> bool:
        """As of other subscribers. Besides, the whole answer must leave in `slow_seconds`, as those to other requests."""
        is_stuck = super().is_stuck(now, slow_seconds)
        is_late = self._has_answered and self.lag is not None and now - self.lag.since >= slow_seconds
        return is_stuck or (is_late and not self.is_flushed())

    def resume_writing(self) -> None:
        """The sweep closes the connection once the client has the answer."""
        self._responder.release()

    def connection_lost(self, exc: Exception | None) -> None:
        self._responder.release()
        self._cancel_timer()
        super().connection_lost(exc)

    def _cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
