"""Waits for request bodies, with time limits, until the application shuts down.

Rules: handlers wait for bodies only here; any other wait would delay the shutdown. A publish is never interrupted. The limits
are those of `ConnectionTimeouts`: no wait has a timer of its own.

A body read whole has one limit, so single bytes now and then don't extend it. A streamed body may last for ever, with
limited pauses. Its pieces are used within the call that brings them: no task runs for a piece unless its use has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from typing import Any

from broker.auth.grants import Caller
from broker.errors import BrokerError, Draining, InvalidBody, Overloaded, TooLarge
from broker.web.body_limits import RETRY_SECONDS, BodyLimits
from broker.web.connection_timeouts import ConnectionTimeouts, TimeoutReason
from broker.web.driving import begin
from broker.web.values import BodySource, Listener

Use = Callable[[bytes], Coroutine[Any, Any, None] | None]
"""Uses the next piece of a streamed body: at once and then returns None, or in a coroutine, which needs a task from its first wait on."""


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

    def arrived(self, _piece: bytes | None) -> bool:
        """End the wait in progress: a listener that uses no piece."""
        self.wake()
        return False

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
        limits: a streamed body enters them before anything is done for it.
    """

    def __init__(self, timeouts: ConnectionTimeouts, limits: BodyLimits) -> None:
        self.limits = limits
        self._timeouts = timeouts
        self._is_stopped = False
        self._waits: set[Interrupt] = set()

    async def whole(self, body: BodySource, caller: Caller, max_bytes: int) -> bytes:
        """The whole `body`, which `caller` sends.

        Raises:
            InvalidBody: its transfer coding is malformed, or it did not arrive in time.
            TooLarge: it is larger than `max_bytes`.
            Draining: `stop` was called.
            Overloaded: other bodies need the room.
            RateLimited, Overloaded: there are too many bodies, or too many bytes of them.
        """
        if (body.length or 0) > max_bytes:
            raise TooLarge(f"The body may have at most {max_bytes} bytes.")
        interrupt = Interrupt()
        pieces = bytearray()
        with self.limits.enter(caller) as held:
            self._timeouts.body_awaited(interrupt)
            try:
                while True:
                    piece = self._take(body, interrupt)
                    if piece is None:
                        await self._wait(body, interrupt, interrupt.arrived, coalesced=False)
                        continue
                    if not piece:
                        return bytes(pieces)
                    pieces += piece
                    if len(pieces) > max_bytes:
                        raise TooLarge(f"The body may have at most {max_bytes} bytes.")
                    held.hold(len(pieces))
            finally:
                self._timeouts.body_arrived(interrupt)

    async def each_piece(self, body: BodySource, interrupt: Interrupt, use: Use) -> None:
        """Call `use` with each piece of a streamed `body`, one after the other, until its end.

        Raises as `whole` does, what `use` raises, or the error of `interrupt`.
        """
        while True:
            piece = self._take(body, interrupt)
            if piece:
                using = use(piece)
                if using is not None:
                    await using
            elif piece is None:
                await self._use_arriving(body, interrupt, use)
            else:
                return

    async def _use_arriving(self, body: BodySource, interrupt: Interrupt, use: Use) -> None:
        """Call `use` with the pieces that arrive, until a use has to wait, or the body or the wait for it ends."""
        arriving = _Arriving(body, interrupt, use, self._timeouts)
        self._timeouts.piece_awaited(interrupt)
        try:
            await self._wait(body, interrupt, arriving.notified, coalesced=True)
        finally:
            self._timeouts.body_arrived(interrupt)
        await arriving.finish()

    async def pause(self, seconds: float, interrupt: Interrupt) -> None:
        """Read nothing for `seconds`. Raises `Draining` if `stop` is called meanwhile, or the error of `interrupt`."""
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

    async def _wait(
        self, body: BodySource, interrupt: Interrupt, listener: Listener, *, coalesced: bool
    ) -> None:
        """Call `listener` for each arrival until `interrupt` is woken."""
        interrupt.waiter = asyncio.get_running_loop().create_future()
        self._waits.add(interrupt)
        try:
            body.listen(listener, coalesced=coalesced)
            await interrupt.waiter
        finally:
            interrupt.waiter = None
            body.listen(None)
            self._waits.discard(interrupt)

    def _take(self, body: BodySource, interrupt: Interrupt) -> bytes | None:
        self._check(interrupt)
        return body.take()

    def _check(self, interrupt: Interrupt) -> None:
        interrupt.check()
        if self._is_stopped:
            raise Draining(
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


class _Arriving:
    """Uses the pieces of a streamed body within the calls that bring them, while the handler waits.

    The handler is woken for what can't be done there: the rest of a use that has to wait, an error, the end of the body.
    """

    __slots__ = ("_body", "_error", "_interrupt", "_rest", "_timeouts", "_use")

    def __init__(
        self, body: BodySource, interrupt: Interrupt, use: Use, timeouts: ConnectionTimeouts
    ) -> None:
        self._body = body
        self._interrupt = interrupt
        self._use = use
        self._timeouts = timeouts
        self._rest: Awaitable[None] | None = None
        self._error: Exception | None = None

    def notified(self, given: bytes | None) -> bool:
        """Something has arrived. See `values.Listener`."""
        interrupt = self._interrupt
        waiter = interrupt.waiter
        if waiter is None or waiter.done():  # the handler goes on, and finds these bytes
            return False
        try:
            while piece := given or self._body.take():
                self._timeouts.piece_awaited(interrupt)
                using = self._use(piece)
                if using is not None:
                    self._rest = begin(using)
                    if self._rest is not None:
                        break
                if given:
                    return True
            if piece is None:
                return False
        except Exception as error:
            self._error = error
        interrupt.wake()
        return given is not None

    async def finish(self) -> None:
        """Do what `notified` left to be done."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # which refers to this frame
        if self._rest is not None:
            await self._rest
