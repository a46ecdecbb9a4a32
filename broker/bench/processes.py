"""The processes of a run and the pipes to them.

Rules: knows how to start, hear, tell and end processes; not what they do. A process that fails raises BenchError: the run
is void. One that has told all and left is fine.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from broker.bench.plan import BenchError

TOLD = TypeVar("TOLD")
END_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Hand:
    """One process, and the last that it told of each kind."""

    process: BaseProcess
    pipe: Connection
    told: dict[type[Any], Any] = field(default_factory=dict)
    has_left: bool = False


class Crew:
    """Processes that do the same kind of work. A context manager: whatever happens, none is left behind."""

    def __init__(self) -> None:
        self.hands: list[Hand] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for hand in self.hands:
            hand.pipe.close()
            if kind is not None:
                hand.process.terminate()
        for hand in self.hands:
            hand.process.join(END_SECONDS)
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Start one more process: `work(pipe, *arguments)`, in a fresh interpreter."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=undisturbed, args=(work, theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self.hands.append(Hand(process, ours))

    def tell(self, word: str) -> None:
        """Say one word to all."""
        for hand in self.hands:
            try:
                hand.pipe.send(word)
            except OSError:
                raise ended(hand) from None

    def listen(self, seconds: float) -> None:
        """Take in what is told, until the first news or for so long."""
        pipes = {hand.pipe: hand for hand in self.hands if not hand.has_left}
        if not pipes:
            time.sleep(seconds)
        for pipe in wait(list(pipes), seconds):
            hand = pipes[pipe]  # type: ignore[index]
            try:
                while hand.pipe.poll():
                    news = hand.pipe.recv()
                    hand.told[type(news)] = news
            except EOFError:
                hand.has_left = True
                hand.process.join(END_SECONDS)
                if hand.process.exitcode:
                    raise ended(hand) from None

    def last(self, kind: type[TOLD]) -> list[TOLD]:
        """The last of this kind from each that has told one."""
        return [hand.told[kind] for hand in self.hands if kind in hand.told]

    def all_told(self, kind: type[TOLD], seconds: float) -> list[TOLD]:
        """Wait until each has told one of this kind. Raises BenchError when that takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while len(self.last(kind)) < len(self.hands):
            if time.monotonic() > deadline:
                raise BenchError(f"a load process has not told what it should for {seconds:.0f} s")
            self.listen(0.1)
        return self.last(kind)


def ended(hand: Hand) -> BenchError:
    """The error for a process that has gone."""
    hand.process.join(END_SECONDS)
    return BenchError(f"a load process has ended too early (exit status {hand.process.exitcode}); see above")


def undisturbed(work: Callable[..., None], pipe: Connection, *arguments: Any) -> None:
    """Do the work; Ctrl-C is for the process that started this one, which then closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(pipe, *arguments)
