"""One running instance: a store and a hub, joined.

Rules: the only place that knows both. What the web layer needs of the broker is here: publish, subscribe, look, clear,
drain. No HTTP, no settings, no concrete store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from broker import sse
from broker.auth.grants import Caller, Grant
from broker.errors import Overloaded, Unavailable
from broker.events import Clock, EventId, format_id
from broker.fanout import backpressure
from broker.fanout.backpressure import Backpressure
from broker.fanout.batches import BatchRunner
from broker.fanout.feed import FeedKey
from broker.fanout.hub import Hub
from broker.fanout.subscriber import CloseReason, Subscriber
from broker.log.log import Log
from broker.log.start import After, Malformed, Start, has_all, position
from broker.metrics import Metrics
from broker.node import commands
from broker.node.commands import Cancel, Disconnect, Revoke
from broker.node.evictions import Evictions
from broker.node.gauges import NodeGauges
from broker.node.limits import RateLimits, RateLimitSettings
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, Store, TopicState

CANCEL_SECONDS = 10.0
"""For so long an instance that can't be reached still hears of it."""
DRAIN_LOOK_SECONDS = 0.05

LONG_RETRY_MS = (10_000, 30_000)

_logger = logging.getLogger("broker")


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How this instance treats its connections; the settings of the same names."""

    max_connections: int
    heartbeat_seconds: float
    slow_seconds: float
    retry_min_ms: int
    retry_max_ms: int
    drain_notice_seconds: float
    drain_seconds: float
    max_age_seconds: float
    revocation_seconds: float


class Node:
    """See the module.

    Args:
        store: started and stopped with the node.
        clock: seconds since 1970.
        allowances: what each caller may do at most.

    Attributes:
        admission: asked before a stream is begun (`enter`; a subscriber that is gone leaves by itself), and before a publish.
        on_cancel: called with a topic whose producer was asked to stop.
        draining: whether it is on its way out; then it takes no new subscribers.
    """

    def __init__(
        self,
        store: Store,
        limits: StreamPolicy,
        metrics: Metrics,
        clock: Clock,
        allowances: RateLimitSettings = RateLimitSettings(),  # noqa: B008 - a value that doesn't change
    ) -> None:
        loop = asyncio.get_running_loop()
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.draining = False
        self._store = store
        self._hub = Hub(
            call_soon=loop.call_soon,
            monotonic=loop.time,
            complete_to=lambda: store.logs.complete_to,
            on_released=store.logs.unwatch,
            on_written=store.logs.trim,
            on_shrunk=self._shrunk,
            on_closed=self._closed,
            on_gap=self._gap_told,
            on_aged=lambda subscriber: self._end(subscriber, CloseReason.MAX_AGE),
            heartbeat_seconds=limits.heartbeat_seconds,
            slow_seconds=limits.slow_seconds,
            max_age_seconds=limits.max_age_seconds,
        )
        self.on_cancel: Callable[[str], None] = _nobody
        self._slices = BatchRunner(loop.call_soon)
        self._cancelling: set[str] = set()  # topics whose subscribers are being told
        self._dismissals = Evictions(
            self._slices, loop.call_later, clock, lambda: self._hub.subscribers, self._end
        )
        self.admission = RateLimits(allowances, store.counters, loop.time)
        self._gate = Backpressure(lambda: self._hub.backlog, self._hub.backlog_of)
        self._ticker: asyncio.Task[None] | None = None
        self._emptied = asyncio.Event()
        metrics.registry.register(NodeGauges(self._hub, store))

    @property
    def store_name(self) -> str:
        """How the store is called where the start is told of."""
        return self._store.name

    @property
    def streams(self) -> int:
        """How many are open here."""
        return len(self._hub)

    # Life

    async def start(self) -> None:
        """Begin to work. Raises `Unavailable` where the store can't be reached."""
        await self._store.start(self)
        self._ticker = asyncio.create_task(self._tick(), name="broker ticker")
        self._ticker.add_done_callback(_log_death)

    async def stop(self) -> None:
        """Cut what is still connected and give everything back."""
        self.cut()
        self._dismissals.stop()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        await self._store.stop()

    def cut(self) -> None:
        """Cut every subscriber there is; a publisher waits for none of them any more."""
        for subscriber in self._hub.subscribers:
            self._hub.cut(subscriber, CloseReason.DRAINING)

    async def _tick(self) -> None:
        period = min(1.0, self.limits.heartbeat_seconds / 4, self.limits.slow_seconds / 4)
        while True:
            await asyncio.sleep(period)
            self._hub.walk()
            self._store.sweep()
            self._dismissals.look()

    def checks(self) -> dict[str, str]:
        """By name, `"ok"` or what is wrong (contract §6, readyz)."""
        alive = self._ticker is not None and not self._ticker.done()
        return {
            **self._store.checks(),
            "heartbeats": "ok" if alive else "stopped",
            "fan-out": "ok"
            if not (self._hub.failure or self._slices.failure)
            else "failed; restart this instance",
            "accepting": "draining" if self.draining else "ok",
        }

    async def drain(self) -> None:
        """End all streams, spread over `drain_seconds`, each with a `retry:` of its own (I8); publishes go on.

        Readiness fails first, for `drain_notice_seconds`.
        """
        self.draining = True
        await asyncio.sleep(self.limits.drain_notice_seconds)
        loop = asyncio.get_running_loop()
        begin, deadline = loop.time(), loop.time() + self.limits.drain_seconds
        subscribers = list(self._hub.subscribers)
        random.shuffle(subscribers)
        for index, subscriber in enumerate(subscribers):
            due = begin + self.limits.drain_seconds * 0.8 * index / len(subscribers)
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if subscriber.hub_index >= 0:
                self._end(subscriber, CloseReason.DRAINING)
        self._emptied.clear()
        while len(self._hub) and loop.time() < deadline:
            self._hub.walk()  # closes those who have everything
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_LOOK_SECONDS):
                    await self._emptied.wait()

    def _end(
        self, subscriber: Subscriber, reason: CloseReason, farewell: bytes = b"", wait_seconds: float = 0.0
    ) -> None:
        """End a stream; the last it hears is `farewell` and when to come back, after `wait_seconds` at the earliest."""
        delay_ms = int(wait_seconds * 1000) + self.retry_ms()
        self._hub.finish(subscriber, reason, farewell + sse.retry(delay_ms))

    # Publish

    async def publish(
        self, items: Sequence[Item], key: str | None = None, options: PublishOptions = NO_OPTIONS
    ) -> Receipt:
        """Publish `(topic, lines)` items, all or none, and end topics; see `stores.base.Topics.publish`.

        Waits while too much of these topics is on its way, so that a publisher never outruns the subscribers who are up
        to date; those who lag hold nobody up (I3).
        """
        if not self._hub.backlog or self._gate.is_open({topic for topic, _ in items}):
            receipt = await self._store.topics.publish(items, key, options)
        else:
            try:
                await self._gate.wait({topic for topic, _ in items})
                receipt = await self._store.topics.publish(items, key, options)
            finally:
                self._gate.turn()
        if not receipt.replayed:
            self.metrics.published.inc(len(items) - receipt.known)
        return receipt

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        """End a topic; see `stores.base.Topics.close`."""
        return await self._store.topics.close(topic, reason, if_last=if_last)

    async def lease(self, topic: str, seconds: float | None) -> None:
        """Have a topic end unless somebody speaks for it; see `stores.base.Topics.lease`."""
        await self._store.topics.lease(topic, seconds)

    def delivered(self, topic: str, size: int) -> bool:
        self._hub.delivered_to(topic, size)
        return self._hub.backlog <= backpressure.ALL_BYTES

    def _shrunk(self) -> None:
        self._gate.turn()
        if self._hub.backlog <= backpressure.ALL_BYTES // 2:
            self._store.logs.resume()

    # Subscribe

    def check_room(self) -> None:
        """Raises `Overloaded` or `Unavailable` where no further subscriber is taken."""
        if self.draining:
            raise Unavailable("This instance is shutting down; come back in a moment.", retry_after=2)
        if len(self._hub) >= self.limits.max_connections:
            raise Overloaded("All connections are taken; come back later.", retry_after=random.randint(5, 15))

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        """The logs of `topics`, fit for `start`, to be given to `attach` in the same step, or back by `unwatch`.

        Raises `Unavailable`, within a second, where the store can't vouch for them.
        """
        return await self._store.logs.watch(topics, start)

    def has_all(self, logs: Sequence[Log], start: Start) -> bool:
        """Whether the topics of `logs` have all ended, and who starts there has seen that; to be asked as `attach` is."""
        return isinstance(start, After) and has_all(start, logs, self._store.logs)

    def unwatch(self, topics: Sequence[str]) -> None:
        """Give back what `watch` took."""
        self._store.logs.unwatch(topics)

    def attach(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        head: bytes,
        topics: Sequence[str],
        logs: Sequence[Log],
        start: Start,
        *,
        enveloped: bool,
    ) -> Subscriber:
        """Make the connection behind `transport` a subscriber; `head` is written before everything else.

        From here on the watches belong to the subscriber, and so does its place of `admission`.
        """
        where = position(start, topics, logs, self._store.logs)
        resumed = isinstance(start, After | Malformed)
        (self.metrics.resumed_connects if resumed else self.metrics.first_connects).inc()
        for reason in where.gaps:
            self._gap_told(reason, 1)
        opening = head + sse.retry(self.retry_ms()) + sse.HEARTBEAT + where.preface
        key = FeedKey(where.topics, enveloped, where.floors)
        left_out: list[str] = []
        if len(where.topics) != len(topics):
            left_out = [topic for topic in topics if topic not in where.topics]
            logs = [log for topic, log in zip(topics, logs, strict=True) if topic in where.topics]
        subscriber = self._hub.attach(transport, caller, key, logs, where.cursor, opening)
        self._store.logs.unwatch(left_out)
        self._dismissals.admitted(subscriber)
        return subscriber

    def retry_ms(self) -> int:
        """A reconnect delay, random so that those who were cut together don't come back together."""
        return random.randint(self.limits.retry_min_ms, self.limits.retry_max_ms)

    @staticmethod
    def long_retry_ms() -> int:
        """The same for those who were refused."""
        return random.randint(*LONG_RETRY_MS)

    def _closed(self, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
        self._dismissals.left(subscriber)
        self.admission.leave(subscriber.caller)
        self.metrics.closes.labels(reason.value).inc()
        self.metrics.age.observe(age)
        if not len(self._hub):
            self._emptied.set()

    def _gap_told(self, reason: str, subscribers: int) -> None:
        self.metrics.gaps.labels(reason).inc(subscribers)

    # Who may not stay

    def check_good(self, grant: Grant) -> None:
        """Raises `Unauthorized` where what lets a caller in has been revoked, or has expired, since it was looked at."""
        self._dismissals.check(grant)

    async def disconnect(self, *, subject: str | None = None, topic: str | None = None) -> None:
        """End the streams of `subject`, or of `topic`, on all instances. Raises `Unavailable`."""
        await self._store.broadcast.send(commands.encode(Disconnect(self.clock(), subject, topic)))

    async def revoke(
        self, *, token_id: str | None = None, subject: str | None = None, until: float | None = None
    ) -> None:
        """Refuse the token, or all that `subject` was given so far, and end their streams, on all instances.

        `until` says when that may be forgotten; without it, after `revocation_seconds`.

        Raises:
            RateLimited: there is no room for another one.
            Unavailable: not all instances are known to hear of it.
        """
        self._dismissals.revocations.check_room()
        now = self.clock()
        until = now + self.limits.revocation_seconds if until is None else until
        await self._store.broadcast.send(commands.encode(Revoke(now, until, token_id, subject)), until)

    def on_broadcast(self, notice: str) -> None:
        """Do what an instance, perhaps this one, has told all."""
        match commands.decode(notice):
            case Disconnect() as order:
                self._dismissals.disconnect(order)
            case Revoke() as order:
                self._dismissals.revoke(order)
            case Cancel(topic=topic):
                self._cancelled(topic)
            case _:
                _logger.warning("an instance of another version says what isn't known here: %.100s", notice)

    async def watched(self, topics: Collection[str]) -> set[str]:
        """Those of `topics` that somebody watches, on any instance; at most 2 s old. Raises `Unavailable`."""
        return {state.topic for state in await self._store.topics.describe(list(topics)) if state.subscribers}

    async def cancel(self, topic: str) -> None:
        """Ask whoever publishes a stream to `topic` to stop, on all instances; its subscribers are told. Raises `Unavailable`."""
        now = self.clock()
        await self._store.broadcast.send(commands.encode(Cancel(topic, now)), now + CANCEL_SECONDS)
        self.metrics.cancels.inc()

    def _cancelled(self, topic: str) -> None:
        """Break the bodies off, and tell the subscribers; who asks again while they are being told asks for the same (I4)."""
        self.on_cancel(topic)
        if topic in self._cancelling:
            return
        self._cancelling.add(topic)
        told = sse.control("broker.cancel", {"topic": topic})
        self._slices.order(
            self._hub.subscribers_of(topic),
            lambda subscriber: subscriber.reads(topic),
            lambda subscriber: self._hub.notify(subscriber, told),
            lambda: self._cancelling.discard(topic),
        )

    # Look and clear

    async def describe(self, topic: str) -> dict[str, object]:
        """A topic as contract §4 shows it."""
        (state,) = await self._store.topics.describe([topic])
        return _shown(state)

    async def topics(self, after: str, limit: int) -> tuple[list[dict[str, object]], str | None]:
        """A page of topics after a name, and the name after which the next page begins, if there is one."""
        names = await self._store.topics.names(after, limit + 1)
        page = await self._store.topics.describe(names[:limit])
        return [_shown(state) for state in page], names[limit - 1] if len(names) > limit else None

    async def delete(self, topic: str) -> None:
        """Empty a topic; its subscribers get `broker.end`."""
        await self._store.topics.delete(topic)


def _nobody(_topic: str) -> None:
    """Nobody publishes streams here."""


def _shown(state: TopicState) -> dict[str, object]:
    return {
        "topic": state.topic,
        "subscribers": state.subscribers,
        "events": state.events,
        "bytes": state.bytes,
        "first_id": _shown_id(state.first_id),
        "last_id": _shown_id(state.last_id),
        "closed": state.closed,
    }


def _shown_id(event_id: EventId | None) -> str | None:
    return None if event_id is None else format_id(event_id)


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.critical(
            "the %s died; this instance is not ready any more", task.get_name(), exc_info=task.exception()
        )
