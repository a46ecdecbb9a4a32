"""The signals that stop or restart a broker, as a queue."""

from __future__ import annotations

import asyncio
import signal


class SignalQueue:
    """Queues SIGTERM and SIGINT, and SIGHUP if `sighup` is true. Needs a running event loop."""

    def __init__(self, *, sighup: bool) -> None:
        self._received: asyncio.Queue[signal.Signals] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if sighup else ())):
            loop.add_signal_handler(number, self._received.put_nowait, number)

    async def next(self) -> signal.Signals:
        """The next signal, in order of arrival."""
        return await self._received.get()

    async def next_termination(self) -> signal.Signals:
        """The next SIGTERM or SIGINT; SIGHUP is dropped, because a shutdown is already under way."""
        while (number := await self._received.get()) is signal.SIGHUP:
            pass
        return number


def may_catch_sighup() -> bool:
    """False if SIGHUP was ignored at the start, as under `nohup`: the broker must then survive its terminal."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
