"""The tasks of a store: each has this one owner, which ends them, and knows when one died that shouldn't.

Rules: a task may end with `Unavailable`, of which those who wait for it are told; any other failure is a defect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from broker.errors import Unavailable

_logger = logging.getLogger("broker")


class TaskOwner:
    """See the module.

    Attributes:
        defect: what the last task died of that shouldn't have.
    """

    def __init__(self) -> None:
        self.defect: BaseException | None = None
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, owned: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(owned)
        self._running.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and not isinstance(failure, Unavailable):
            self.defect = failure
            _logger.critical(
                "a task of the store died; this instance is not ready any more", exc_info=failure
            )

    async def stop(self) -> None:
        """End all that run."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
