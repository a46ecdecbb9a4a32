"""What goes wrong with the store, the network to it, and the other broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.broker_process import BrokerProcess
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server

AWAY_SECONDS = 2.5
CUT_BYTES = 5000
Fault = Callable[[], Awaitable[None]]


class Faults:
    """Each fault is over when its coroutine returns.

    Args:
        other: the broker that is restarted.
    """

    def __init__(self, server: Server, proxy: RedisProxy, other: BrokerProcess) -> None:
        self._server = server
        self._proxy = proxy
        self._other = other

    def all(self) -> dict[str, Fault]:
        """The faults by name."""
        return {
            "connections cut": self._cut,
            "connections cut within a message": self._cut_within,
            "no connections": self._refuse,
            "pub/sub silent": self._silence,
            "server paused": self._pause,
            "server killed": self._kill,
            "server emptied": self._empty,
            "scripts flushed": self._flush_scripts,
            "other broker drained": self._drain,
            "other broker killed": self._kill_other,
        }

    async def _cut(self) -> None:
        self._proxy.cut()

    async def _cut_within(self) -> None:
        self._proxy.cut_after(CUT_BYTES)

    async def _refuse(self) -> None:
        self._proxy.close()
        await asyncio.sleep(AWAY_SECONDS)
        self._proxy.open()

    async def _silence(self) -> None:
        self._proxy.silence_subscribers()

    async def _pause(self) -> None:
        self._server.pause()
        await asyncio.sleep(AWAY_SECONDS)
        self._server.resume()

    async def _kill(self) -> None:
        """Kill the server and start it again with the content of its file."""
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)

    async def _empty(self) -> None:
        await asyncio.to_thread(self._command, "FLUSHALL")

    async def _flush_scripts(self) -> None:
        await asyncio.to_thread(self._command, "SCRIPT", "FLUSH")

    def _command(self, *words: str) -> None:
        with self._server.client() as client:
            client.execute_command(*words)

    async def _drain(self) -> None:
        status = await asyncio.to_thread(self._other.terminate)
        assert status == 0, self._other.output[-2000:]
        await asyncio.to_thread(self._other.start)

    async def _kill_other(self) -> None:
        await asyncio.to_thread(self._other.kill)
        await asyncio.to_thread(self._other.start)


def server_in(directory: Path, program: str) -> Server:
    """A server that writes each command to its file."""
    return Server(directory, program, "appendonly yes", "appendfsync everysec")
