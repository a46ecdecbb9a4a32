"""How much memory the server uses, and how much it may use.

Rules: reads and warns; the server itself refuses writes once its memory is full.
"""

from __future__ import annotations

import logging

from broker.errors import Unavailable
from broker.stores.redis.link import fields
from broker.stores.redis.script_pipeline import ScriptPipeline

SHORT = 0.9
"""The part of its memory from which on the server is short of it."""

_logger = logging.getLogger("broker")


class ServerMemory:
    """The server's memory at the last `read`, in bytes.

    Attributes:
        used: 0 before the first.
        limit: its `maxmemory`; 0 without a limit.
    """

    def __init__(self, calls: ScriptPipeline) -> None:
        self.used = self.limit = 0
        self._calls = calls
        self._is_short = False

    async def read(self) -> None:
        """Ask the server, and warn the operator when its memory gets short."""
        try:
            info = fields(await self._calls.command("INFO", "memory"))
        except Unavailable:
            return
        self.used, self.limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
        was_short, self._is_short = self._is_short, 0 < self.limit * SHORT < self.used
        if self._is_short and not was_short:
            _logger.warning(
                "the store uses %d of %d bytes of memory; when it is full, publishers get 503",
                self.used,
                self.limit,
            )
