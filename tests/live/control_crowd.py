"""Five hundred well-behaved subscribers in a process of their own: whatever is done to the broker, they miss nothing.

They publish to a topic of their own, each event once all of them have the one before. So they also measure how long an
event takes to reach the last of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Self

from tests.live.crowd import GoodReaders
from tests.support.publisher import Publisher
from tests.support.waiting import WAIT_SECONDS

TOPIC = "control"
COUNT = 500
EVENT_BYTES = 200
PAUSE_SECONDS = 0.05
READY_SECONDS = WAIT_SECONDS
ATTEMPTS = 10


@dataclass(frozen=True)
class Report:
    """The latencies since the last report.

    Attributes:
        seconds: for each event in turn, from its publisher's beginning to send it until the last subscriber had it.
    """

    seconds: list[float]


class ControlCrowd:
    """See the module; a context manager. `cpu`: the only one they run on, where given."""

    def __init__(self, port: int, *, count: int = COUNT, cpu: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_follow, args=(theirs, port, count, cpu), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join(READY_SECONDS)
        self._process.close()
        self._pipe.close()

    def report(self) -> Report:
        """The report since the last one. Fails unless all got every event, once and in order, and none was cut off."""
        with contextlib.suppress(BrokenPipeError):  # they have failed; the reason follows
            self._pipe.send("report")
        return self._receive()

    def _receive(self) -> Report:
        assert self._pipe.poll(READY_SECONDS), "the control crowd doesn't answer"
        received = self._pipe.recv()
        assert isinstance(received, Report), received
        return received


def _follow(pipe: Pipe, port: int, count: int, cpu: int | None) -> None:
    try:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        with (
            GoodReaders(port, TOPIC, count) as readers,
            Publisher(port, attempts=ATTEMPTS) as publisher,  # an idle connection may be closed to make room
        ):
            pipe.send(Report([]))
            published = publisher.published
            seconds: list[float] = []
            while True:
                if pipe.poll(PAUSE_SECONDS):
                    pipe.recv()
                    assert readers.data == published, "in order, once, all of it"
                    assert len(set(readers.ids)) == len(published)
                    pipe.send(Report(seconds))
                    seconds = []
                began = time.monotonic()
                publisher.publish(TOPIC, f"{len(published)} ".ljust(EVENT_BYTES, "x"))
                readers.catch_up(len(published))
                seconds.append(time.monotonic() - began)
    except Exception:  # reported to the test
        pipe.send(traceback.format_exc())
