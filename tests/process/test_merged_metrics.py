"""The metrics of all workers, while a worker ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from broker.process import merged_metrics
from broker.process.merged_metrics import MergedMetrics
from broker.process.setup import Endpoint
from broker.process.snapshots import Family, encode
from broker.process.supervisor_channel import MERGE, METRICS
from broker.process.worker import encode_start
from broker.process.worker_process import WorkerProcess
from tests.support.waiting import WAIT_SECONDS

COUNTS = [Family("broker_connects", "counter", "Streams.", [("broker_connects_total", (), 7.0)])]
START = encode_start(Endpoint(["http://127.0.0.1:1"], "memory")).strip()
WORKER = """
import sys
start, *answers = sys.argv[1:]
print(start, flush=True)
for answer, _ in zip(answers, sys.stdin):
    print(answer, flush=True)
sys.stdin.read()
"""
"""Gives its answers in turn."""


async def _process(*answers: bytes) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, START, *answers, stdin=PIPE, stdout=PIPE
    )


@pytest.fixture(autouse=True)
def waits_for_no_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's end ends the wait for its answer."""
    monkeypatch.setattr(merged_metrics, "ANSWER_SECONDS", 100 * WAIT_SECONDS)


async def test_a_worker_that_ends_during_a_scrape_is_counted_once() -> None:
    asked_again = asyncio.Event()
    answer = METRICS + b" " + encode(COUNTS)
    processes = [await _process(answer, answer), await _process(answer, MERGE)]
    staying, ending = [WorkerProcess(process, 0, lambda _: asked_again.set()) for process in processes]
    running, metrics = {staying, ending}, MergedMetrics()
    try:
        for worker in running:
            await worker.wait_until_listening()
        assert b"broker_connects_total 14.0\n" in await metrics.text(running)

        scrape = asyncio.create_task(metrics.text(running))
        await asked_again.wait()  # the worker has the request, and won't answer it
        processes[1].kill()
        await ending.wait()
        running.discard(ending)
        metrics.ended(ending)
        async with asyncio.timeout(WAIT_SECONDS):
            assert b"broker_connects_total 14.0\n" in await scrape
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(staying.wait(), ending.wait())


CUT_WORKER = """
import os, sys
start, answer = sys.argv[1:]
print(start, flush=True)
sys.stdin.readline()
print(answer, end="", flush=True)
os.kill(os.getpid(), 9)
"""
"""Is killed in the middle of its answer, which is longer than a pipe's buffer in a real one."""


async def test_a_worker_that_is_killed_in_mid_answer_has_ended_like_any_other() -> None:
    answer = METRICS + b" " + encode(COUNTS)[:-9]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CUT_WORKER, START, answer, stdin=PIPE, stdout=PIPE
    )
    worker, metrics = WorkerProcess(process, 0, lambda _: None), MergedMetrics()
    await worker.wait_until_listening()
    scrape = asyncio.create_task(metrics.text({worker}))
    assert await worker.wait() == -signal.SIGKILL
    async with asyncio.timeout(WAIT_SECONDS):
        assert b"broker_connects_total" not in await scrape
