"""Bodies that are still arriving: whoever waits for one can be told to stop.

Rules: a handler waits for a body here and nowhere else, else it would hold up the end of the process, and be cut without
an answer. Only the wait is broken off, never a publish that is underway.

A body that is to be read whole has one bound for all of it: a sender that merely makes some progress would hold its
connection for as long as it likes. A streamed one may take for ever, and is only to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from broker.errors import BrokerError, InvalidBody, Unavailable
from broker.web.connection_timeouts import TimeoutReason

RETRY_SECONDS = 2

T = TypeVar("T")


class Interrupt:
    """Lets somebody else break off what waits for a body, with an error for whoever sends it."""

    def __init__(self) -> None:
        self.error: BrokerError | None = None
        self.wait: asyncio.Timeout | None = None

    def raise_(self, error: BrokerError) -> None:
        """Have the wait that is underway, or the next one, raise `error`; the first one counts."""
        self.error = self.error or error
        if self.wait is not None:
            self.wait.reschedule(0)


class BodyReader:
    """Those of one application.

    Args:
        on_cut: called once for each body that takes too long.
        body_seconds: for a body that is read whole.
        stream_idle_seconds: for the next piece of a streamed one; 0 for ever.
    """

    def __init__(
        self, on_cut: Callable[[TimeoutReason], None], *, body_seconds: float, stream_idle_seconds: float
    ) -> None:
        self._stopped = False
        self._waits: set[asyncio.Timeout] = set()
        self._on_cut = on_cut
        self._body_seconds = body_seconds
        self._late_body = (
            f"The body was not whole within {body_seconds:g} s; send less at once, or send it as a stream."
        )
        self._stream_idle_seconds = stream_idle_seconds or None
        self._late_piece = f"Nothing came for {stream_idle_seconds:g} s; a streamed body that pauses sends an empty line, or a comment, now and then."

    async def whole(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns, which reads the body to its end.

        Raises:
            InvalidBody: it was not whole in time.
            Unavailable: `stop` was called. What had arrived and was not read is lost.
        """
        return await self._wait(read, self._body_seconds, TimeoutReason.BODY, self._late_body)

    async def piece(self, read: Callable[[], Awaitable[T]], interrupt: Interrupt) -> T:
        """What `read` returns, which reads what comes next of a streamed body; raises as `whole` does, or by `interrupt`."""
        return await self._wait(
            read, self._stream_idle_seconds, TimeoutReason.PAUSE, self._late_piece, interrupt
        )

    async def pause(self, seconds: float, interrupt: Interrupt) -> None:
        """Read nothing of a streamed body for so long. Raises `Unavailable` as `whole` does, or by `interrupt`."""
        await self._wait(partial(asyncio.sleep, seconds), None, TimeoutReason.PAUSE, "", interrupt)

    async def _wait(
        self,
        read: Callable[[], Awaitable[T]],
        seconds: float | None,
        why: TimeoutReason,
        late: str,
        interrupt: Interrupt | None = None,
    ) -> T:
        interrupt = interrupt or Interrupt()
        if interrupt.error is not None:
            raise interrupt.error
        if not self._stopped:
            wait = interrupt.wait = asyncio.timeout(seconds)
            try:
                async with wait:
                    self._waits.add(wait)
                    return await read()
            except TimeoutError:
                if not wait.expired():
                    raise
                if interrupt.error is not None:
                    raise interrupt.error from None
                if not self._stopped:
                    self._on_cut(why)
                    raise InvalidBody(late) from None
            finally:
                interrupt.wait = None
                self._waits.discard(wait)
        raise Unavailable(
            "This instance is shutting down and takes no more of the body; send the rest again in a moment.",
            retry_after=RETRY_SECONDS,
        )

    def stop(self) -> None:
        """Break off every wait, and those to come."""
        self._stopped = True
        for wait in self._waits:
            wait.reschedule(0)
