"""The processes of a run, and the pipes to them.

Rules: knows how to start processes, exchange messages with them and end them; their work is elsewhere. A process that fails raises
BenchError, because the run is void. A process that has sent its result may exit.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.bench.plan import BenchError
from broker.bench.types import Command

MESSAGE = TypeVar("MESSAGE")
EXIT_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class LoadProcess:
    """One process, and its last message of each type."""

    process: BaseProcess
    pipe: Pipe
    messages: dict[type[Any], Any] = field(default_factory=dict)
    has_exited: bool = False


class ProcessGroup:
    """Processes that do the same work. A context manager that ends them."""

    def __init__(self) -> None:
        self._processes: list[LoadProcess] = []

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for one in self._processes:
            one.pipe.close()
            if kind is not None:
                one.process.terminate()
        for one in self._processes:
            one.process.join(EXIT_SECONDS)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Start a process that calls `work(pipe, *arguments)` in a new interpreter."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(work, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(LoadProcess(process, ours))

    def send(self, command: Command) -> None:
        """Send a command to all processes."""
        for one in self._processes:
            try:
                one.pipe.send(command)
            except OSError:
                raise _exited(one) from None

    def receive(self, seconds: float) -> None:
        """Wait up to `seconds` for a message, and take all messages that are there."""
        by_pipe = {one.pipe: one for one in self._processes if not one.has_exited}
        if not by_pipe:
            time.sleep(seconds)
        for pipe in wait(list(by_pipe), seconds):
            one = by_pipe[pipe]  # type: ignore[index]
            try:
                while one.pipe.poll():
                    message = one.pipe.recv()
                    one.messages[type(message)] = message
            except EOFError:
                one.has_exited = True
                one.process.join(EXIT_SECONDS)
                if one.process.exitcode:
                    raise _exited(one) from None

    def last(self, kind: type[MESSAGE]) -> list[MESSAGE]:
        """The last message of type `kind` of each process that has sent one."""
        return [one.messages[kind] for one in self._processes if kind in one.messages]

    def wait_for_all(self, kind: type[MESSAGE], seconds: float) -> list[MESSAGE]:
        """Wait until each process has sent a message of type `kind`. Raises BenchError after `seconds`."""
        deadline = time.monotonic() + seconds
        while len(self.last(kind)) < len(self):
            if time.monotonic() > deadline:
                raise BenchError(f"a load process did not answer for {seconds:.0f} s")
            self.receive(0.1)
        return self.last(kind)


def _exited(one: LoadProcess) -> BenchError:
    one.process.join(EXIT_SECONDS)
    return BenchError(f"a load process exited too early (exit status {one.process.exitcode}); see above")


def _run(work: Callable[..., None], pipe: Pipe, *arguments: Any) -> None:
    """Do the work and ignore Ctrl-C: the parent handles it, and closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(pipe, *arguments)
