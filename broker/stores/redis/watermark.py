"""An id that only rises.

Rules: state; knows no store.
"""

from __future__ import annotations

import asyncio

from broker.events import EventId


class Watermark:
    """The highest id given to `raise_to`, and the futures of callers that wait for a higher one."""

    def __init__(self) -> None:
        self.value: EventId = 0
        self._waiting: dict[asyncio.Future[None], EventId] = {}

    def raise_to(self, value: EventId) -> None:
        """Raise the id to `value`, unless it is higher already."""
        if value <= self.value:
            return
        self.value = value
        for future, wanted in self._waiting.items():
            if wanted <= value and not future.done():
                future.set_result(None)

    def reached(self, wanted: EventId) -> asyncio.Future[None]:
        """A future, done once the value is `wanted` or higher; may be cancelled."""
        future = asyncio.get_running_loop().create_future()
        if wanted <= self.value:
            future.set_result(None)
        else:
            self._waiting[future] = wanted
            future.add_done_callback(self._waiting.pop)  # also called for a cancelled one
        return future
