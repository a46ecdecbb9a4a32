"""Sends the requests of a seed to a broker process, and reports the problems."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.live.fuzz.cases import Case, Ending, case
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, RESET_ON_CLOSE
from tests.support.waiting import WAIT_SECONDS, wait_for

SETTINGS = {
    "max_event_bytes": 5000,
    "max_topics": 100,
    "log_memory_bytes": 2 << 20,
    "idempotency_memory_bytes": 1 << 20,
    "producer_timeout_seconds": 1,
    "head_seconds": 2,
    "body_seconds": 2,
    "retry_max_ms": 2000,
}
"""Small limits, so that even state with a long life reaches them soon."""
WORKERS = 8
STATUS_LINE = re.compile(rb"^HTTP/1\.[01] (\d\d\d) ", re.MULTILINE)
ERRORS = ("Traceback", " ERROR ", "Exception in callback", "exception was never retrieved")
NO_COLLECTOR = "import gc\ngc.disable()\ngc.enable = gc.collect = lambda *_: 0\n"
SPARE_BYTES = 3 << 20
SPARE_SHARE = 0.03
"""What the allocator may take more after the run than after the warm-up."""


def without_collector(directory: Path) -> dict[str, str]:
    """The environment of a Python that never collects cycles."""
    (directory / "sitecustomize.py").write_text(NO_COLLECTOR, encoding="utf-8")
    return {"PYTHONPATH": f"{directory}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


class Run:
    """Requests against one broker.

    Attributes:
        statuses: how often each status was seen.
        problems: empty if everything was right.
    """

    def __init__(self, broker: BrokerProcess, seed: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.problems: list[str] = []
        self._broker = broker
        self._seed = seed
        self._logged = 0

    def send(self, numbers: Iterable[int]) -> None:
        """Send the requests with these numbers, some at a time, and wait until nothing of them is open."""
        asyncio.run(self._send_all(iter(numbers)))
        wait_for(lambda: self._broker.metric("broker_request_connections") <= 1, "all connections to be gone")
        wait_for(lambda: self._broker.metric("broker_subscribers") == 0, "all streams to be gone")
        output = self._broker.output
        self.problems += [f"in the log: {word}" for word in ERRORS if word in output[self._logged :]]
        self._logged = len(output)

    def descriptors(self) -> int:
        """How many the broker has open."""
        return sum(1 for _ in Path(f"/proc/{self._broker.pid}/fd").iterdir())

    def check_what_stayed(self, descriptors: int, resident_bytes: int) -> None:
        """Compare with the figures after the warm-up."""
        try:
            wait_for(lambda: self.descriptors() <= descriptors, "the descriptors to be closed", 20)
        except AssertionError:
            self.problems.append(f"{self.descriptors()} descriptors after {descriptors}")
        now = self._broker.resident_bytes()
        if now > resident_bytes * (1 + SPARE_SHARE) + SPARE_BYTES:
            self.problems.append(f"{now:,} bytes of memory after {resident_bytes:,}")

    async def _send_all(self, numbers: Iterable[int]) -> None:
        await asyncio.gather(*(self._work(numbers) for _ in range(WORKERS)))

    async def _work(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    received = await self._exchange(case(self._seed, number))
            except TimeoutError:
                self.problems.append(f"request {number}: no end")
                continue
            statuses = [int(status) for status in STATUS_LINE.findall(received)]
            self.statuses.update(statuses)
            if 500 in statuses or (received and not statuses):
                self.problems.append(f"request {number}: {received[:200]!r}")

    async def _exchange(self, one: Case) -> bytes:
        """Send a case, and return the answer."""
        reader, writer = await asyncio.open_connection(HOST, self._broker.port)
        received = b""
        try:
            for piece in one.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if one.ending is Ending.HALF_CLOSE:
                writer.write_eof()
                received = await reader.read()
            elif one.ending is Ending.RESET_AFTER_ANSWER:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        received = await reader.read(1000)
        except OSError:
            pass  # the broker had seen enough
        finally:
            if one.ending in (Ending.RESET, Ending.RESET_AFTER_ANSWER):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE
                    )
            writer.transport.abort()
        return received
