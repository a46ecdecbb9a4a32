"""Tasks of a store: which ends are defects, and that none is left."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.errors import Unavailable
from broker.stores.redis.task_owner import TaskOwner


async def fail(error: Exception) -> None:
    raise error


async def run_on() -> None:
    await asyncio.get_running_loop().create_future()


async def test_an_exception_is_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    tasks, error = TaskOwner(), RuntimeError("a defect")
    with caplog.at_level(logging.CRITICAL):
        await asyncio.wait([tasks.spawn(fail(error))])
    assert tasks.defect is error
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


async def test_unavailable_and_a_cancellation_are_no_defects() -> None:
    tasks = TaskOwner()
    cancelled = tasks.spawn(run_on())
    cancelled.cancel()
    await asyncio.wait([cancelled, tasks.spawn(fail(Unavailable("not now")))])
    assert tasks.defect is None


async def test_stop_leaves_no_task() -> None:
    tasks = TaskOwner()
    running = [tasks.spawn(run_on()) for _ in range(3)]
    await tasks.stop()
    assert all(task.cancelled() for task in running)
