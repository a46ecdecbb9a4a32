"""The processes of a chaos run: brokers that keep their logs over restarts, and servers whose clock and disk can be disturbed."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.stores.chaos.clients import ask
from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.http import HOST, request
from tests.support.ports import free_port
from tests.support.redis_servers import START_SECONDS, Server

READY_SECONDS = 60
STARTS = 5
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
DEFECTS = re.compile(r"Traceback|Task exception was never retrieved|was never awaited|AssertionError")


class LoggedBroker(BrokerProcess):
    """A broker process on a fixed port.

    Attributes:
        lock: held by whatever disturbs it.
        is_paused: between SIGSTOP and SIGCONT.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"port": free_port(), "host": HOST, **settings})
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
        """Lines of its logs that tell of a defect, each with what follows, since the last call."""
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
                await asyncio.sleep(0.02)


class ChaosServer(Server):
    """A data server whose clock can be moved, if libfaketime works with its program.

    Attributes:
        has_clock: whether `move_clock` works.
    """

    def __init__(
        self, directory: Path, program: str, *config: str, tcp: bool = False, replica_of: Server | None = None
    ) -> None:
        super().__init__(directory, program, *config, tcp=tcp, replica_of=replica_of)
        self.lock = asyncio.Lock()
        self.is_paused = False
        self._clock = directory / "clock"
        self.has_clock = False
        self._environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        if FAKETIME.exists():
            self.move_clock(0)
            done = subprocess.run(
                [program, "--version"], env=self._environment, capture_output=True, check=False
            )
            self.has_clock = done.returncode == 0 and not done.stderr

    def move_clock(self, seconds: float) -> None:
        """Let its clock be off by this much; it may run."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+f}\n")
        new.rename(self._clock)

    def start(self) -> None:
        self._last = ChildProcess(
            [self.program, str(self._config), *self._arguments],
            cwd=self.directory,
            env=self._environment if self.has_clock else {},
        )
        self._last.wait_until_up(self._answers, START_SECONDS)

    def pause(self) -> None:
        super().pause()
        self.is_paused = True

    def resume(self) -> None:
        super().resume()
        self.is_paused = False


def cut_append_only_file(directory: Path, lost_bytes: Callable[[int], int]) -> int:
    """Cut the end off a stopped server's append-only file, as a power cut does. Returns how many bytes are gone.

    `lost_bytes` gets the size of the part that can be cut.
    """
    (newest,) = sorted(directory.glob("appendonlydir/*.incr.aof"))[-1:]
    size = newest.stat().st_size
    lost = min(size, lost_bytes(size))
    with newest.open("r+b") as file:
        file.truncate(size - lost)
    return lost


def append_only_size(directory: Path) -> int:
    """The size of the newest append-only file."""
    files = sorted(directory.glob("appendonlydir/*.incr.aof"))
    return files[-1].stat().st_size if files else 0
