"""Waits for request bodies, with time limits, until the application shuts down.

Rules: handlers wait for bodies only here; any other wait would delay the shutdown. A publish is never interrupted.

A body read whole has one limit, so single bytes now and then don't extend it. A streamed body may last for ever, with
limited pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from broker.errors import BrokerError, InvalidBody, TooLarge, Unavailable
from broker.metrics import Metrics
from broker.web.connection_timeouts import TimeoutReason
from broker.web.values import BodySource

RETRY_SECONDS = 2

T = TypeVar("T")


class Interrupt:
    """Ends another task's wait for a body.

    Attributes:
        error: set by `raise_`.
        timeout: of the wait in progress; set by `BodyReader`.
    """

    def __init__(self) -> None:
        self.error: BrokerError | None = None
        self.timeout: asyncio.Timeout | None = None

    def raise_(self, error: BrokerError) -> None:
        """Make the current or next wait raise `error`. Only the first call counts."""
        self.error = self.error or error
        if self.timeout is not None:
            self.timeout.reschedule(0)


class BodyReader:
    """Reads the bodies of one application's requests.

    Args:
        body_seconds: the limit for a body read whole.
        stream_idle_seconds: the limit between two pieces of a streamed body; 0 for none.
    """

    def __init__(self, metrics: Metrics, *, body_seconds: float, stream_idle_seconds: float) -> None:
        self._metrics = metrics
        self._is_stopped = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._body_seconds = body_seconds
        self._stream_idle_seconds = stream_idle_seconds or None

    async def whole(self, body: BodySource, max_bytes: int) -> bytes:
        """The whole `body`.

        Raises:
            InvalidBody: its transfer coding is malformed, or it did not arrive in time.
            TooLarge: it is larger than `max_bytes`.
            Unavailable: `stop` was called.
        """
        if (body.length or 0) > max_bytes:
            raise TooLarge(f"The body may have at most {max_bytes} bytes.")
        read = partial(body.whole, max_bytes)
        return await self._wait(read, self._body_seconds, TimeoutReason.BODY, Interrupt())

    async def piece(self, body: BodySource, interrupt: Interrupt) -> bytes:
        """The next bytes of a streamed `body`, b"" at its end. Raises as `whole` does, or the error of `interrupt`."""
        return await self._wait(body.piece, self._stream_idle_seconds, TimeoutReason.PAUSE, interrupt)

    async def pause(self, seconds: float, interrupt: Interrupt) -> None:
        """Read nothing for `seconds`. Raises `Unavailable` if `stop` is called meanwhile, or the error of `interrupt`."""
        await self._wait(partial(asyncio.sleep, seconds), None, TimeoutReason.PAUSE, interrupt)

    async def _wait(
        self,
        read: Callable[[], Awaitable[T]],
        seconds: float | None,
        reason: TimeoutReason,
        interrupt: Interrupt,
    ) -> T:
        if interrupt.error is not None:
            raise interrupt.error
        if not self._is_stopped:
            timeout = interrupt.timeout = asyncio.timeout(seconds)
            try:
                async with timeout:
                    self._timeouts.add(timeout)
                    return await read()
            except TimeoutError:
                if not timeout.expired():
                    raise
                if interrupt.error is not None:
                    raise interrupt.error from None
                if not self._is_stopped:
                    self._metrics.cut_requests.labels(reason).inc()
                    raise InvalidBody(_too_slow(reason, seconds)) from None
            finally:
                interrupt.timeout = None
                self._timeouts.discard(timeout)
        raise Unavailable(
            "This instance is shutting down and reads no more of the body; send the rest again in a moment.",
            retry_after=RETRY_SECONDS,
        )

    def stop(self) -> None:
        """End all waits, new ones too."""
        self._is_stopped = True
        for timeout in self._timeouts:
            timeout.reschedule(0)


def _too_slow(reason: TimeoutReason, seconds: float | None) -> str:
    if reason is TimeoutReason.BODY:
        return f"The body did not arrive within {seconds:g} s; send a smaller one, or a streamed one."
    return f"Nothing arrived for {seconds:g} s; during a pause, send an empty line or a comment now and then."
