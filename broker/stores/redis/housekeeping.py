"""Regular work for the whole store, done by every instance: closing abandoned topics, forgetting old ones, watching memory.

Rules: decides when; others do the work, perhaps on several instances at once.
"""

from __future__ import annotations

import asyncio
import time

from broker.stores.redis.commands import Commands
from broker.stores.redis.server_memory import ServerMemory
from broker.stores.redis.task_owner import TaskOwner

FORGET_SECONDS = 10.0
MEMORY_SECONDS = 5.0


class Housekeeping:
    """Starts the regular work when it is due."""

    def __init__(self, commands: Commands, memory: ServerMemory, tasks: TaskOwner) -> None:
        self._commands = commands
        self._memory = memory
        self._tasks = tasks
        self._forgot_at = time.monotonic()
        self._memory_read_at = -MEMORY_SECONDS
        self._closing: asyncio.Task[None] | None = None

    def sweep(self) -> None:
        """Start the work that is due; called about once a second while the server can be reached."""
        if self._closing is None or self._closing.done():
            self._closing = self._tasks.spawn(self._commands.close_abandoned())
        now = time.monotonic()
        if now - self._memory_read_at >= MEMORY_SECONDS:
            self._memory_read_at = now
            self._tasks.spawn(self._memory.read())
        if now - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = now
            self._tasks.spawn(self._commands.forget())
