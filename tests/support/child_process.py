"""Runs another program and reads its output: the one way in which tests do so."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self, TypeVar

from tests.support.waiting import WAIT_SECONDS, wait_for

STOP_SECONDS = WAIT_SECONDS

T = TypeVar("T")


class ChildProcess:
    """A program that runs; a context manager, which kills it if it still runs.

    Args:
        command: the program and its arguments.
        options: as `subprocess.Popen` takes them. Standard error goes with standard output unless they say otherwise.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._printed = bytearray()
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdout=subprocess.PIPE, **{"stderr": subprocess.STDOUT, **options}
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            self._printed += data

    @property
    def printed(self) -> bytes:
        """Everything it has printed so far."""
        return bytes(self._printed)

    @property
    def output(self) -> str:
        """The same as text."""
        return self.printed.decode(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_up(self, is_up: Callable[[], object], seconds: float) -> None:
        """Return once `is_up()` is true. Kills the program and raises AssertionError if it ends or takes too long."""
        try:
            wait_for(lambda: is_up() or not self.running, "the program to be up", seconds)
            assert self.running, "it has ended"
        except BaseException as error:
            self.kill()
            raise AssertionError(f"{self._process.args!r} did not start: {error}\n{self.output}") from error

    def write(self, data: bytes) -> None:
        """Send to its standard input, for which `stdin` must be a pipe."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until it has ended and everything it printed was read; returns the exit status."""
        status = self._process.wait(seconds)
        self._reader.join(seconds)
        for pipe in (self._process.stdout, self._process.stdin):
            if pipe is not None:
                pipe.close()
        return status


class RestartableProcess:
    """A program that can be started again after it has ended; a context manager. A subclass says how it is started."""

    def __init__(self) -> None:
        self._last: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()

    def start(self) -> None:
        """Start it, and wait until it is up."""
        raise NotImplementedError

    @property
    def _process(self) -> ChildProcess:
        assert self._last is not None, "it was never started"
        return self._last

    @property
    def running(self) -> bool:
        return self._last is not None and self._last.running

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything it has printed since it was last started."""
        return self._process.output

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it has no time to save or to drain anything."""
        self._process.kill()


def enter_all(stack: ExitStack, managers: Iterable[AbstractContextManager[T]]) -> list[T]:
    """Have `stack` enter them all at the same time: a program that starts mostly waits."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(stack.enter_context, managers))
