"""The store's housekeeping, which every instance does now and then: nobody needs to be the one who does it.

Rules: when; what is done is `operations`' business, and safe to be done by several at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from broker.stores.redis.commands import Commands

FORGET_SECONDS = 10.0


class Housekeeping:
    """See the module.

    Args:
        spawn: makes a task that its owner looks after.
    """

    def __init__(
        self, operations: Commands, spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
    ) -> None:
        self._operations = operations
        self._spawn = spawn
        self._forgot_at = time.monotonic()
        self._ending: asyncio.Task[None] | None = None

    def sweep(self) -> None:
        """One step; called about once a second, while the store can be reached."""
        if self._ending is None or self._ending.done():
            self._ending = self._spawn(self._operations.end_abandoned())
        if time.monotonic() - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = time.monotonic()
            self._spawn(self._operations.forget())
