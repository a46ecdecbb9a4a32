"""The tasks of a store. Each has this one owner, which cancels them at the end and notices if one dies of a defect.

Rules: a task may end with `Unavailable`, which its awaiters handle. Any other exception is a defect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from broker.errors import Unavailable

_logger = logging.getLogger("broker")


class TaskOwner:
    """Owns the tasks of a store.

    Attributes:
        defect: the exception that the last task died of, if it was a defect.
    """

    def __init__(self) -> None:
        self.defect: BaseException | None = None
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and not isinstance(failure, Unavailable):
            self.defect = failure
            _logger.critical(
                "a task of the store died of a defect; this instance is no longer ready", exc_info=failure
            )

    async def stop(self) -> None:
        """Cancel all tasks, and return once they have ended."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def mark_retrieved(task: asyncio.Task[None]) -> None:
    """A done callback. Keeps asyncio from logging an exception if no caller waits for the task any more."""
    if not task.cancelled():
        task.exception()
