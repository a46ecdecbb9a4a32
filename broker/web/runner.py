"""Serves an application by the front, on aiohttp's runner and sites.

The runner starts and stops the application. aiohttp's own server gets no connection.
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from broker.web.aiohttp_adapter import ROUTER, SERVICES, TIMEOUTS
from broker.web.front.access_log import AccessLog
from broker.web.front.front import Front

SHORT_SHUTDOWN_SECONDS = 0.1
MAX_HEAD_BYTES = 16 << 10


class Runner(web.AppRunner):
    """Runs an application from `aiohttp_adapter.application`.

    Args:
        access_log: the logger for the access log; None for no log.
        shutdown_timeout: for clients to read open answers, in seconds.
        max_head_bytes: see `Front`.

    Attributes:
        front: between `setup` and `cleanup`.
    """

    __slots__ = ("_access_log", "_max_head_bytes", "_shutdown_seconds", "front")

    def __init__(
        self,
        app: web.Application,
        *,
        access_log: logging.Logger | None,
        shutdown_timeout: float = 60.0,
        max_head_bytes: int = MAX_HEAD_BYTES,
    ) -> None:
        super().__init__(app)
        self.front: Front | None = None
        self._access_log = access_log
        self._shutdown_seconds = shutdown_timeout
        self._max_head_bytes = max_head_bytes

    @property
    def server(self) -> Any:
        """The protocol factory for the sites; None before `setup` and after `cleanup`."""
        return self.front

    async def setup(self) -> None:
        await super().setup()
        app = self.app
        self.front = Front(
            app[SERVICES],
            app[ROUTER],
            app[TIMEOUTS],
            max_head_bytes=self._max_head_bytes,
            access_log=None if self._access_log is None else AccessLog(self._access_log),
        )

    async def shutdown(self) -> None:
        """Called by `cleanup`, once no further connection is accepted."""
        if self.front is not None:
            self.front.stop()
        await super().shutdown()
        if self.front is not None:
            await self.front.close(self._shutdown_seconds)

    async def cleanup(self) -> None:
        await super().cleanup()
        self.front = None

    def shorten_shutdown(self) -> None:
        """Make the next `cleanup` wait for handlers only for a moment."""
        self._shutdown_seconds = SHORT_SHUTDOWN_SECONDS
