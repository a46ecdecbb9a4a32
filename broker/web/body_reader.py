"""Waits for request bodies, with time limits, until the application shuts down.

Rules: handlers wait for bodies only here; any other wait would delay the shutdown. A publish is never interrupted. The limits
are those of `ConnectionTimeouts`: no wait has a timer of its own.

A body read whole has one limit, so single bytes now and then don't extend it. A streamed body may last for ever, with
limited pauses.
"""

from __future__ import annotations

import asyncio
from copy import copy

from broker.errors import BrokerError, InvalidBody, Overloaded, TooLarge, Unavailable
from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.values import BodySource

RETRY_SECONDS = 2
MAX_HELD_BYTES = 64 << 20
"""The limit for all incomplete bodies together, but streamed ones (I4)."""


class Interrupt:
    """Ends a handler's waits for a body; see `connection_timeouts.Waiting`.

    Attributes:
        is_raised: whether `raise_` was called.
        timeout: the reason why the wait in progress timed out; set by `time_out`.
        waiter: the wait in progress; set by `BodyReader`.
    """

    __slots__ = ("_error", "is_raised", "timeout", "waiter")

    def __init__(self) -> None:
        self.is_raised = False
        self.timeout: TimeoutReason | None = None
        self.waiter: asyncio.Future[None] | None = None
        self._error: BrokerError | None = None

    def raise_(self, error: BrokerError) -> None:
        """Make the current or next wait raise `error`. Only the first call counts."""
        if not self.is_raised:
            self.is_raised = True
            self._error = copy(error)
            self.wake()

    def time_out(self, reason: TimeoutReason) -> None:
        self.timeout = reason
        self.wake()

    def wake(self) -> None:
        """End the wait in progress, if any."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def check(self) -> None:
        """Raise the error of `raise_`: a copy, for a raised error keeps the frames that it passes through."""
        if self._error is not None:
            raise copy(self._error)


class BodyReader:
    """Reads the bodies of one application's requests; `timeouts` limits the waits.

    Attributes:
        held_bytes: bytes of incomplete bodies that are read whole.
    """

    def __init__(self, timeouts: ConnectionTimeouts) -> None:
        self.held_bytes = 0
        self._timeouts = timeouts
        self._is_stopped = False
        self._waits: set[Interrupt] = set()

    async def whole(self, body: BodySource, max_bytes: int) -> bytes:
        """The whole `body`.

        Raises:
            InvalidBody: its transfer coding is malformed, or it did not arrive in time.
            TooLarge: it is larger than `max_bytes`.
            Unavailable: `stop` was called, or other bodies need the room.
        """
        if (body.length or 0) > max_bytes:
            raise TooLarge(f"The body may have at most {max_bytes} bytes.")
        interrupt = Interrupt()
        self._timeouts.body_awaited(interrupt, TimeoutReason.BODY)
        pieces = bytearray()
        try:
            while True:
                piece = self._take(body, interrupt)
                if piece is None:
                    piece = await self._next(body, interrupt)
                if not piece:
                    return bytes(pieces)
                pieces += piece
                self.held_bytes += len(piece)
                if len(pieces) > max_bytes:
                    raise TooLarge(f"The body may have at most {max_bytes} bytes.")
                if self.held_bytes > MAX_HELD_BYTES:
                    raise Overloaded(
                        "Too many bodies arrive at once; send it again later.", retry_after=RETRY_SECONDS
                    )
        finally:
            self.held_bytes -= len(pieces)
            self._timeouts.body_arrived(interrupt)

    async def piece(self, body: BodySource, interrupt: Interrupt) -> bytes:
        """The next bytes of a streamed `body`, b"" at its end. Raises as `whole` does, or the error of `interrupt`."""
        piece = self._take(body, interrupt)
        if piece is not None:
            return piece
        self._timeouts.body_awaited(interrupt, TimeoutReason.PAUSE)
        try:
            return await self._next(body, interrupt)
        finally:
            self._timeouts.body_arrived(interrupt)

    async def pause(self, seconds: float, interrupt: Interrupt) -> None:
        """Read nothing for `seconds`. Raises `Unavailable` if `stop` is called meanwhile, or the error of `interrupt`."""
        self._check(interrupt)
        loop = asyncio.get_running_loop()
        interrupt.waiter = loop.create_future()
        timer = loop.call_later(seconds, interrupt.wake)
        self._waits.add(interrupt)
        try:
            await interrupt.waiter
        finally:
            timer.cancel()
            interrupt.waiter = None
            self._waits.discard(interrupt)
        self._check(interrupt)

    async def _next(self, body: BodySource, interrupt: Interrupt) -> bytes:
        loop = asyncio.get_running_loop()
        self._waits.add(interrupt)
        try:
            while True:
                interrupt.waiter = loop.create_future()
                body.wake(interrupt.waiter)
                await interrupt.waiter
                piece = self._take(body, interrupt)
                if piece is not None:
                    return piece
        finally:
            interrupt.waiter = None
            body.wake(None)
            self._waits.discard(interrupt)

    def _take(self, body: BodySource, interrupt: Interrupt) -> bytes | None:
        self._check(interrupt)
        return body.take()

    def _check(self, interrupt: Interrupt) -> None:
        interrupt.check()
        if self._is_stopped:
            raise Unavailable(
                "This instance is shutting down and reads no more of the body; send the rest again in a moment.",
                retry_after=RETRY_SECONDS,
            )
        if interrupt.timeout is TimeoutReason.ROOM:
            raise Overloaded(
                "All connections are in use; send the request again later.", retry_after=RETRY_SECONDS
            )
        if interrupt.timeout is not None:
            raise InvalidBody(self._too_slow(interrupt.timeout))

    def stop(self) -> None:
        """End all waits, new ones too."""
        self._is_stopped = True
        for interrupt in self._waits:
            interrupt.wake()

    def _too_slow(self, reason: TimeoutReason) -> str:
        if reason is TimeoutReason.BODY:
            return f"The body did not arrive within {self._timeouts.body_seconds:g} s; send a smaller one, or a streamed one."
        return f"Nothing arrived for {self._timeouts.pause_seconds:g} s; during a pause, send an empty line or a comment now and then."
