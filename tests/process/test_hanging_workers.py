"""Workers that hang or are killed early, as an operator and connected clients see it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from broker.process.worker_process import WorkerKilled, WorkerProcess
from broker.settings import Settings
from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.http import exchange, request
from tests.support.process_tree import descendants, workers
from tests.support.waiting import WAIT_SECONDS, wait_for

HANG_SECONDS = 5.0
"""Long enough that workers on a busy machine don't hang by accident."""


def test_a_stopped_worker_is_replaced(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, worker_timeout_seconds=HANG_SECONDS) as broker:
        victim = workers(broker)[0]
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: f"worker {victim} has not answered" in broker.output, "it is noticed")
        wait_for(lambda: victim not in workers(broker) and len(workers(broker)) == 2, "it is replaced")
        wait_for(lambda: "is listening" in broker.output, "its successor listens")
        answers = [exchange(broker.port, request("GET", "/healthz")).status for _ in range(30)]
        assert answers == [200] * 30
        assert broker.terminate() == 0


@pytest.mark.slow  # it must be stopped for longer than a worker may hang
def test_a_suspended_machine_costs_no_worker(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, worker_timeout_seconds=HANG_SECONDS) as broker:
        pids = workers(broker)
        with _stopped(broker.pid, *pids):
            resume_at = time.monotonic() + HANG_SECONDS + 1
            wait_for(lambda: time.monotonic() > resume_at, "a long sleep")
        checked_at = time.monotonic() + HANG_SECONDS
        wait_for(lambda: time.monotonic() > checked_at, "further checks")
        assert workers(broker) == pids
        assert "has not answered" not in broker.output
        assert broker.terminate() == 0


@contextmanager
def _stopped(*pids: int) -> Iterator[None]:
    """Stop these processes, then continue them in the same order."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def test_a_worker_that_ends_before_it_has_its_settings_is_reported_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = asyncio.create_subprocess_exec

    async def start_and_kill(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)
        process.kill()
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_kill)
    worker = await WorkerProcess.start(Settings(), [], lambda _: None)
    with pytest.raises(WorkerKilled, match="SIGKILL before it listened"):
        await worker.wait_until_listening()


def test_a_worker_killed_before_all_listen_does_not_end_the_broker(store: str) -> None:
    command = [sys.executable, "-m", "broker", "serve", "--port=0", "--workers=2", f"--redis-url={store}"]
    with ChildProcess(command, stderr=subprocess.STDOUT) as broker:
        wait_for(lambda: len(descendants(broker.pid)) == 2, "workers that start")
        victim = descendants(broker.pid)[0]
        os.kill(victim, signal.SIGKILL)
        broker.wait_until_up(lambda: "broker: listening on" in broker.output, WAIT_SECONDS)
        wait_for(
            lambda: (
                f"worker {victim} was killed" in broker.output or f"worker {victim} ended" in broker.output
            ),
            "the line in the output",
        )
        wait_for(lambda: len(descendants(broker.pid)) == 2, "two workers")
        assert broker.terminate() == 0
