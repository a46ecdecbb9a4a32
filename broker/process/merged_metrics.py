"""The metrics of all workers of a supervisor, as text."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from broker.process.snapshots import Merger, Snapshot
from broker.process.worker_process import WorkerProcess
from broker.web.metrics_text import text_of

ANSWER_SECONDS = 2.0


class MergedMetrics:
    """Asks the workers, and remembers what those had counted that have ended."""

    def __init__(self) -> None:
        self._merger = Merger()
        self._merging: asyncio.Task[bytes] | None = None

    async def text(self, workers: Collection[WorkerProcess]) -> bytes:
        """The metrics of `workers` now, from which those are missing of which `ended` was called. Concurrent callers share one answer."""
        if self._merging is None:
            self._merging = asyncio.create_task(self._merged(workers), name="metrics of all workers")
            self._merging.add_done_callback(self._forget)
        return await asyncio.shield(self._merging)

    def _forget(self, _merging: asyncio.Task[bytes]) -> None:
        self._merging = None

    async def _merged(self, workers: Collection[WorkerProcess]) -> bytes:
        asked = list(workers)
        answers = await asyncio.gather(*(worker.metrics(ANSWER_SECONDS) for worker in asked))
        current: list[Snapshot] = []
        stale: list[Snapshot] = []
        for worker, answered in zip(asked, answers, strict=True):
            if worker in workers:  # else it has ended meanwhile, and the merger has its counts
                (current if answered else stale).append(worker.last_metrics)
        return await text_of(self._merger.merge(current, stale))

    def ended(self, worker: WorkerProcess) -> None:
        """A worker has ended: keep its counts. Called once for each."""
        self._merger.retire(worker.last_metrics)
