"""The open streamed bodies of this instance: their cancels, their topics' leases, and their viewers.

Rules: knows nothing of a body's content. One task serves all bodies: it renews leases, ends bodies with a token that is refused by now,
and cancels producers without viewers if they asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from broker.auth.grants import Grant
from broker.errors import Cancelled, RateLimited, Unauthorized, Unavailable
from broker.node.node import Node
from broker.web.body_reader import Interrupt

PERIOD_SECONDS = 0.5
CANCELLED_SECONDS = 10.0
"""How long a producer that resumes a stream still learns of a cancel."""
MAX_CANCELLED = 10_000
UNWATCHED_SECONDS = 2.0
"""How often the bodies without viewers are counted."""
MAX_ASKED = 1000
"""How many topics the store is asked about at once. If there are more, a random sample of this size stands for all."""

_CANCELLED = "This topic's producer was asked to stop: stop, and end the topic with ?end=true unless it is closed already."

_logger = logging.getLogger("broker")


@dataclass(eq=False, slots=True)
class ProducerBody:
    """A streamed body that is open.

    Attributes:
        leased: the topic closes if the producer disappears.
        last_viewer_seconds: the producer is cancelled after this time without viewers; 0 for never.
        watched_at: when the topic last had a viewer; loop time, as is `opened_at`.
        interrupt: ends the wait for the next piece.
    """

    topic: str
    grant: Grant
    leased: bool
    last_viewer_seconds: float
    watched_at: float
    opened_at: float
    interrupt: Interrupt = field(default_factory=Interrupt)


class Producers:
    """The open streamed bodies of this instance.

    Args:
        timeout_seconds: how long a leased topic stays open after its producer has disappeared.

    Attributes:
        unwatched: about how many topics with an open body have no viewer on any instance; a few seconds old.
    """

    def __init__(self, node: Node, timeout_seconds: float) -> None:
        self._node = node
        self._timeout_seconds = timeout_seconds
        self._bodies: defaultdict[str, set[ProducerBody]] = defaultdict(set)
        self._cancelled_at: dict[str, float] = {}
        self._count = 0
        self.unwatched = 0
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many bodies are open."""
        return self._count

    def start(self) -> None:
        """Start the task, and receive the node's cancels."""
        self._node.instances.on_cancel = self._cancel
        self._node.details.producers_of = self._describe
        self._task = asyncio.create_task(self._run(), name="broker producers")

    async def stop(self) -> None:
        """Stop the task."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def check(self) -> str:
        """`"ok"`, or the failure of the task (contract §6, readyz)."""
        return "ok" if self._task is not None and not self._task.done() else "stopped; restart this instance"

    @contextlib.contextmanager
    def open(
        self, topic: str, grant: Grant, *, resumed: bool, leased: bool, last_viewer_seconds: float
    ) -> Iterator[ProducerBody]:
        """Register a body for `topic` while the context lasts; `resumed` if it continues one that was cut.

        Raises:
            Cancelled: the producer was cancelled before it resumed.
        """
        if resumed:
            self.check_resumed(topic)
        now = self._loop.time()
        body = ProducerBody(topic, grant, leased, last_viewer_seconds, now, now)
        self._bodies[topic].add(body)
        self._count += 1
        try:
            yield body
        finally:
            self._count -= 1
            self._bodies[topic].discard(body)
            if not self._bodies[topic]:
                del self._bodies[topic]

    def check_resumed(self, topic: str) -> None:
        """Raise `Cancelled` if the producer that now resumes `topic` was cancelled while it had no body open."""
        if self._loop.time() - self._cancelled_at.get(topic, -CANCELLED_SECONDS) < CANCELLED_SECONDS:
            raise Cancelled(_CANCELLED)

    async def take_lease(self, topic: str, *, leased: bool) -> None:
        """Take or renew the topic's lease; if not `leased`, give it up. Raises as `Node.lease` does."""
        await self._node.lease(topic, self._timeout_seconds if leased else None)

    def _describe(self, topic: str) -> Sequence[Mapping[str, object]]:
        now = self._loop.time()
        return [
            {"subject": body.grant.subject, "age": round(now - body.opened_at, 1), "leased": body.leased}
            for body in self._bodies.get(topic, ())
        ]

    def _cancel(self, topic: str) -> None:
        self._cancelled_at.pop(topic, None)
        self._cancelled_at[topic] = self._loop.time()
        if len(self._cancelled_at) > MAX_CANCELLED:
            del self._cancelled_at[next(iter(self._cancelled_at))]
        for body in self._bodies.get(topic, ()):
            body.interrupt.raise_(Cancelled(_CANCELLED))

    # The task

    async def _run(self) -> None:
        renewed_at = counted_at = self._loop.time()
        while True:
            await asyncio.sleep(min(PERIOD_SECONDS, self._timeout_seconds / 4))
            now = self._loop.time()
            self._end_refused()
            try:
                if now - renewed_at >= self._timeout_seconds / 3:
                    renewed_at = now
                    await self._renew_leases()
                await self._cancel_unwatched()
                if now - counted_at >= UNWATCHED_SECONDS:
                    counted_at = now
                    self.unwatched = await self._count_unwatched()
            except (Unavailable, RateLimited) as error:
                _logger.warning(
                    "can't renew the leases or count the viewers of streamed topics: %s", error.detail
                )

    def _end_refused(self) -> None:
        """End the bodies with a token that has expired or was revoked; one that sends nothing would keep its lease."""
        for bodies in self._bodies.values():
            for body in bodies:
                try:
                    self._node.streams.evictions.check(body.grant)
                except Unauthorized as error:
                    body.interrupt.raise_(error)

    async def _renew_leases(self) -> None:
        for topic in [topic for topic, bodies in self._bodies.items() if any(body.leased for body in bodies)]:
            if topic in self._bodies:
                await self.take_lease(topic, leased=True)

    async def _count_unwatched(self) -> int:
        feeds = self._node.streams.hub.feeds
        topics = [topic for topic in self._bodies if not feeds.count(topic)]
        asked = random.sample(topics, min(MAX_ASKED, len(topics)))
        if not asked:
            return 0
        watched = await self._node.watched(asked)
        return round(len(topics) * (1 - len(watched) / len(asked)))

    async def _cancel_unwatched(self) -> None:
        bodies = [body for bodies in self._bodies.values() for body in bodies if body.last_viewer_seconds]
        if not bodies:
            return
        watched = await self._node.watched({body.topic for body in bodies})
        now = self._loop.time()
        for body in bodies:
            if body.topic in watched:
                body.watched_at = now
            elif now - body.watched_at >= body.last_viewer_seconds and not body.interrupt.is_raised:
                await self._node.instances.cancel(body.topic)
