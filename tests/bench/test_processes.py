"""Load processes: messages, failures, the end."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

import pytest

from broker.bench import BenchError
from broker.bench.processes import ProcessGroup
from broker.bench.types import DeliveryCount


def echo(pipe: Connection, count: int) -> None:
    """Answer each command with `count`, until the pipe is closed."""
    try:
        while pipe.recv():
            pipe.send(DeliveryCount(count))
    except EOFError:
        return


def fail(pipe: Connection) -> None:
    os._exit(3)


def test_the_last_message_of_each_process_is_kept() -> None:
    with ProcessGroup() as group:
        for number in range(2):
            group.start(echo, number)
        for _ in range(2):
            group.send("start")
        assert group.wait_for_all(DeliveryCount, 30) == [DeliveryCount(0), DeliveryCount(1)]


def test_a_process_that_fails_ends_the_run() -> None:
    with pytest.raises(BenchError, match="exit status 3"), ProcessGroup() as group:
        group.start(fail)
        group.wait_for_all(DeliveryCount, 30)


def test_a_process_that_does_not_answer_ends_the_run() -> None:
    with pytest.raises(BenchError, match=r"did not answer for 0 s"), ProcessGroup() as group:
        group.start(echo, 1)
        group.wait_for_all(DeliveryCount, 0.1)
