"""The streamed bodies that are open here: who asks their producers to stop, and who speaks for their topics.

Rules: what a body brings is not known here. While a body is open its topic's lease is renewed, where there is one, and it is
looked whether somebody watches, where that was asked for; one task does both for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.errors import Cancelled, RateLimited, Unavailable
from broker.node.node import Node
from broker.web.body_reader import Interrupt

LOOK_SECONDS = 0.5
CANCELLED_SECONDS = 10.0
"""For so long a producer that comes back to go on is told that it was asked to stop meanwhile."""
MOST_CANCELLED = 10_000

_STOP = "Somebody asked the producer of this topic to stop; end the topic with ?end=true."

_logger = logging.getLogger("broker")


@dataclass(eq=False, slots=True)
class ProducerBody:
    """One that is open.

    Attributes:
        leased: whether its topic is to end where its producer goes away.
        last_viewer_seconds: its producer is asked to stop when nobody has watched for so long; 0 for never.
        watched_at: when somebody was last seen to watch; loop time.
    """

    topic: str
    leased: bool
    last_viewer_seconds: float
    watched_at: float
    interrupt: Interrupt = field(default_factory=Interrupt)


class Producers:
    """See the module.

    Args:
        timeout_seconds: after which a topic ends whose producer has gone away, where that was asked for.
    """

    def __init__(self, node: Node, timeout_seconds: float) -> None:
        self._node = node
        self._timeout_seconds = timeout_seconds
        self._bodies: defaultdict[str, set[ProducerBody]] = defaultdict(set)
        self._cancelled: dict[str, float] = {}
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many bodies are open."""
        return self._count

    def start(self) -> None:
        """Begin to look after them."""
        self._node.instances.on_cancel = self._cancel
        self._task = asyncio.create_task(self._care(), name="broker producing")

    async def stop(self) -> None:
        """Look after them no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def check(self) -> str:
        """`"ok"`, or that nobody looks after them (contract §6, readyz)."""
        return "ok" if self._task is not None and not self._task.done() else "stopped; restart this instance"

    @contextlib.contextmanager
    def open(
        self, topic: str, *, resumed: bool, leased: bool, last_viewer_seconds: float
    ) -> Iterator[ProducerBody]:
        """A body for `topic`, for as long as it is open; `resumed` where it goes on with one that was cut.

        Raises:
            Cancelled: it goes on with one that was asked to stop meanwhile.
        """
        if resumed and self._loop.time() - self._cancelled.get(topic, -CANCELLED_SECONDS) < CANCELLED_SECONDS:
            raise Cancelled(_STOP)
        body = ProducerBody(topic, leased, last_viewer_seconds, self._loop.time())
        self._bodies[topic].add(body)
        self._count += 1
        try:
            yield body
        finally:
            self._count -= 1
            self._bodies[topic].discard(body)
            if not self._bodies[topic]:
                del self._bodies[topic]

    async def take_lease(self, topic: str, *, leased: bool) -> None:
        """Have `topic` end if nobody speaks for it any more; or not, whoever asked for it before. Raises as `Node.lease`."""
        await self._node.lease(topic, self._timeout_seconds if leased else None)

    def _cancel(self, topic: str) -> None:
        self._cancelled.pop(topic, None)
        self._cancelled[topic] = self._loop.time()
        if len(self._cancelled) > MOST_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]
        for body in self._bodies.get(topic, ()):
            body.interrupt.raise_(Cancelled(_STOP))

    # Looking after them

    async def _care(self) -> None:
        renewed_at = self._loop.time()
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._timeout_seconds / 4))
            now = self._loop.time()
            try:
                if now - renewed_at >= self._timeout_seconds / 3:
                    renewed_at = now
                    await self._renew()
                await self._look_for_viewers()
            except (Unavailable, RateLimited) as error:
                _logger.warning("the topics of open bodies can't be looked after: %s", error.detail)

    async def _renew(self) -> None:
        for topic in [topic for topic, bodies in self._bodies.items() if any(body.leased for body in bodies)]:
            if topic in self._bodies:
                await self.take_lease(topic, leased=True)

    async def _look_for_viewers(self) -> None:
        cared = [body for bodies in self._bodies.values() for body in bodies if body.last_viewer_seconds]
        if not cared:
            return
        watched = await self._node.watched({body.topic for body in cared})
        now = self._loop.time()
        for body in cared:
            if body.topic in watched:
                body.watched_at = now
            elif now - body.watched_at >= body.last_viewer_seconds and body.interrupt.error is None:
                await self._node.instances.cancel(body.topic)
