"""Bodies that are still arriving: whoever waits for one can be told to stop.

Rules: a handler waits for a body here and nowhere else, else it would hold up the end of the process, and be cut without
an answer. Only the wait is broken off, never a publish that is underway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker.errors import Unavailable

RETRY_SECONDS = 2

T = TypeVar("T")


class Bodies:
    """Those of one application."""

    def __init__(self) -> None:
        self._stopped = False
        self._waits: set[asyncio.Timeout] = set()

    async def wait(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` returns.

        Raises:
            Unavailable: `stop` was called. What had arrived and was not read is lost.
        """
        if not self._stopped:
            wait = asyncio.timeout(None)
            try:
                async with wait:
                    self._waits.add(wait)
                    return await read()
            except TimeoutError:
                if not wait.expired():
                    raise
            finally:
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
