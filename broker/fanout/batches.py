"""Acts on many subscribers in batches, one per turn of the event loop, so that the loop stays responsive.

Rules: a job chooses the subscribers and the action. All jobs share the batch of a turn, also those that begin in it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator

from broker.fanout.owner import Scheduler
from broker.fanout.subscriber import Subscriber

BATCH_VISITS = 4000
BATCH_ACTS = 200  # a system call or two each: about 4 ms

_logger = logging.getLogger("broker")


class Job:
    """What to do with each of some subscribers."""

    def concerns(self, subscriber: Subscriber) -> bool:
        """Whether to act on `subscriber`; called just before `act`."""
        return True

    def act(self, subscriber: Subscriber) -> None:
        """Called only while the subscriber's stream is open."""
        raise NotImplementedError

    def done(self) -> None:
        """Called when all subscribers were visited."""


class BatchRunner:
    """Runs jobs, one after the other.

    Attributes:
        failure: the last defect in a job.
    """

    def __init__(self, loop: Scheduler) -> None:
        self.failure: Exception | None = None
        self._loop = loop
        self._jobs: deque[tuple[Job, Iterator[Subscriber]]] = deque()
        self._has_run = False  # in this turn

    def __len__(self) -> int:
        """How many jobs are not done."""
        return len(self._jobs)

    def run(self, job: Job, subscribers: Iterable[Subscriber]) -> None:
        """Visit `subscribers`, which may change only if their iterator allows it.

        The first batch runs now, unless other jobs are first or a batch has run in this turn.
        """
        self._jobs.append((job, iter(subscribers)))
        if not self._has_run:
            self._run_batch()

    def _turn(self) -> None:
        """A turn of the loop after one with a batch."""
        self._has_run = False
        if self._jobs:
            self._run_batch()

    def _run_batch(self) -> None:
        self._has_run = True
        self._loop.call_soon(self._turn)
        visits, acts = BATCH_VISITS, BATCH_ACTS
        while self._jobs and visits and acts:
            job, subscribers = self._jobs[0]
            subscriber = next(subscribers, None)
            if subscriber is None:
                self._jobs.popleft()
                job.done()
                continue
            visits -= 1
            if subscriber.feed is not None and job.concerns(subscriber):
                acts -= 1
                self._act(job, subscriber)

    def _act(self, job: Job, subscriber: Subscriber) -> None:
        try:
            job.act(subscriber)
        except Exception as failure:  # a defect with one connection must not reach the others (I9)
            _logger.exception("a batch met a defect; this instance is no longer ready")
            self.failure = failure
