"""Brokers of a chaos run that keep their logs over restarts."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from time import monotonic

from tests.stores.chaos.clients import ask
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, request
from tests.support.ports import free_port

READY_SECONDS = 120
POLL_SECONDS = 0.1
STARTS = 5
DEFECTS = re.compile(r"Traceback|Task exception was never retrieved|was never awaited|AssertionError")


class LoggedBroker(BrokerProcess):
    """A broker process on a fixed port.

    Attributes:
        lock: held by whatever disturbs it.
        is_paused: between SIGSTOP and SIGCONT.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"port": free_port(), "host": HOST, "own_timeouts": True, **settings})
        self.lock = asyncio.Lock()
        self.is_paused = False
        self._logs: list[str] = []

    @property
    def fixed_port(self) -> int:
        """Its port, known before the first start."""
        return int(str(self._settings["port"]))

    def start(self) -> None:
        """Start it; again if another program has its port for a moment."""
        self._keep_log()
        for attempt in range(STARTS):
            try:
                super().start()
            except AssertionError:
                if attempt == STARTS - 1:
                    raise
            else:
                return

    def pause(self) -> None:
        self.send_signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        if self.running:
            self.send_signal(signal.SIGCONT)
        self.is_paused = False

    def defects(self) -> list[str]:
        """Tracebacks and the like in its logs since the last call."""
        self._keep_log()
        found = [
            log[match.start() : match.start() + 2000] for log in self._logs if (match := DEFECTS.search(log))
        ]
        self._logs.clear()
        return found

    def _keep_log(self) -> None:
        if self._last is not None:
            self._logs.append(self.output)

    async def until_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                answer = await ask(self.fixed_port, request("GET", "/readyz"), 5)
                if answer is not None and answer.status == 200:
                    return
                await asyncio.sleep(POLL_SECONDS)


async def poll(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return once `condition()` is true; it may block. Raises AssertionError, naming `what`, after `seconds`."""
    deadline = monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(POLL_SECONDS)
