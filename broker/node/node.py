"""One running instance: a store and a hub, joined.

Rules: the only place that knows both. The web layer calls it and its parts. No HTTP, no settings, no concrete store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from functools import partial
from time import monotonic

from broker.events import Clock, EventId, format_id
from broker.metrics import Metrics
from broker.node.figures import NodeFigures
from broker.node.gauges import NodeGauges
from broker.node.instances import Instances
from broker.node.limits import RateLimits, RateLimitSettings
from broker.node.loop_lag import LoopLag
from broker.node.meter import TopicMeter
from broker.node.stats import Stats
from broker.node.streams import StreamPolicy, Streams
from broker.node.topic_details import TopicDetails
from broker.node.topic_ranking import TopicRanking
from broker.reports import Reporter
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, Store, TopicState
from broker.stores.terms import TopicTerms
from broker.topics import STATS_TOPIC

_logger = logging.getLogger("broker")


class Node:
    """The owner of the store.

    Args:
        store: started and stopped with the node.
        clock: seconds since 1970.

    Attributes:
        logs: the store's. Call `watch` before a stream begins, and `unwatch` if it doesn't.
        delivered, delivered_at_once: see `stores.base.StoreOwner`.
        reporter: writes the lines about what clients do.
        ranking, details: of topics, over all instances.
        limits: asked before a stream begins (`enter`; an open stream leaves by itself) and before a publish.
    """

    def __init__(
        self,
        store: Store,
        policy: StreamPolicy,
        metrics: Metrics,
        clock: Clock,
        limit_settings: RateLimitSettings = RateLimitSettings(),  # noqa: B008 - a value that doesn't change
        reporter: Reporter | None = None,
    ) -> None:
        self.metrics = metrics
        self._published = metrics.published
        self._acknowledged = metrics.acknowledged
        self.reporter = reporter or Reporter()
        self.clock = clock
        self.store_name = store.name
        self.logs = store.logs
        self.limits = RateLimits(limit_settings, store.counters, asyncio.get_running_loop())
        self.streams = Streams(store.logs, policy, self.limits, metrics, clock, self.reporter)
        self.instances = Instances(store.broadcast, self.streams, metrics, clock, policy.revocation_seconds)
        self._store = store
        self._publish_at_once = store.topics.publish_at_once
        self._policy = policy
        fan_out = self.streams.hub.fan_out
        self.delivered, self.delivered_at_once = fan_out.delivered, fan_out.delivered_at_once
        self._backpressure = self.streams.hub.feeds.backpressure
        self._sweeping: asyncio.Task[None] | None = None
        self._loop_lag = LoopLag(asyncio.get_running_loop(), metrics)
        self._meter = TopicMeter(asyncio.get_running_loop().time)
        self._stats = self._make_stats()
        feeds, questions = self.streams.hub.feeds, self.instances.questions
        self.ranking = TopicRanking(store.topics, feeds, self._meter, questions)
        self.details = TopicDetails(feeds, store.logs.timeline, questions)
        self.instances.on_show_stats = self._stats.show
        metrics.registry.register(NodeGauges(self.streams, store, metrics))

    def _make_stats(self) -> Stats:
        streams, loop = self.streams, asyncio.get_running_loop()
        figures = NodeFigures(self.metrics, streams, self._store, loop.time)
        viewers = partial(streams.hub.feeds.count, STATS_TOPIC)
        return Stats(self._store.topics, figures, viewers, self.instances.show_stats)

    # Life

    async def start(self) -> None:
        """Start the store and the sweeps. Raises `Unavailable` if the store refuses this instance."""
        await self._store.start(self)
        self._loop_lag.start()
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="broker sweeps")
        self._sweeping.add_done_callback(_log_death)
        self._stats.start().add_done_callback(_log_death)

    async def stop(self) -> None:
        """Cut all streams, and release everything."""
        self.streams.cut()
        self.streams.evictions.stop()
        self._loop_lag.stop()
        await self._stats.stop()
        await self.instances.questions.stop()
        await self.ranking.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])  # `_log_death` reports a defect
        await self._store.stop()
        self.reporter.close()

    async def _sweep_for_ever(self) -> None:
        period = min(1.0, self._policy.heartbeat_seconds / 4, self._policy.slow_seconds / 4)
        while True:
            await asyncio.sleep(period)
            self.streams.hub.sweep()
            self._store.sweep()
            self.streams.evictions.sweep()
            self.reporter.sweep()
            self._meter.turn()

    def checks(self) -> dict[str, str]:
        """Each check by name: `"ok"`, or the problem (contract §6, readyz)."""
        is_sweeping = self._sweeping is not None and not self._sweeping.done()
        has_failed = self.streams.hub.failure or self.streams.batches.failure
        return {
            **self._store.checks(),
            "heartbeats": "ok" if is_sweeping else "stopped",
            "fan-out": "failed; restart this instance" if has_failed else "ok",
            "accepting": "draining" if self.streams.is_draining else "ok",
        }

    # Called by the store

    def on_broadcast(self, command: str) -> None:
        self.instances.carry_out(command)

    # Publish

    def must_wait(self, items: Sequence[Item]) -> bool:
        """Whether a publish of `items` would have to wait now: for subscribers, or for a store that is behind."""
        return self._must_queue(items) or self._store.topics.is_behind

    def _must_queue(self, items: Sequence[Item]) -> bool:
        """Whether a publish of `items` would have to wait for subscribers."""
        backpressure = self._backpressure
        return not backpressure.is_slack and not backpressure.is_open({topic for topic, _ in items})

    async def publish(
        self, items: Sequence[Item], key: str | None = None, options: PublishOptions = NO_OPTIONS
    ) -> Receipt:
        """Publish `(topic, lines)` items and close topics, all or nothing; see `stores.base.Topics.publish`.

        Waits while too many bytes of these topics are on their way, so that a publisher never outruns the subscribers that are up to
        date. It doesn't wait for those that lag (I3).
        """
        published_at = monotonic()
        if self._must_queue(items):
            topics = {topic for topic, _ in items}
            try:
                await self._backpressure.wait(topics)
                receipt = await self._store.topics.publish(items, key, options, published_at)
            finally:
                self._backpressure.admit(topics)
        else:
            receipt = await self._store.topics.publish(items, key, options, published_at)
        if not receipt.replayed:
            number = len(items) - receipt.known
            self._acknowledged.observe(monotonic() - published_at, number)
            self._published.value += number
            if self._meter.is_on:
                self._meter.add(items, receipt.known)
        return receipt

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId | None:
        """`publish` for the lines of a few events of `topic`, without key and options; returns the last id.

        None, and nothing is published, if it must wait: then await `publish`.
        """
        if not self._backpressure.is_slack and not self._backpressure.is_open((topic,)):
            return None
        event_id = self._publish_at_once(topic, events)
        if event_id is not None:
            self._published.value += len(events)
            if self._meter.is_on:
                self._meter.add([(topic, lines) for lines in events], 0)
        return event_id

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        """Close a topic; see `stores.base.Topics.close`."""
        return await self._store.topics.close(topic, reason, if_last=if_last)

    async def lease(self, topic: str, seconds: float | None) -> None:
        """Take, renew or drop the lease of a topic; see `stores.base.Topics.lease`."""
        await self._store.topics.lease(topic, seconds)

    async def delete(self, topic: str) -> None:
        """Empty a topic, and open it again; its subscribers get `broker.end`."""
        await self._store.topics.delete(topic)

    # Look

    async def watched(self, topics: Collection[str]) -> set[str]:
        """Those of `topics` that have subscribers on any instance; at most 2 s old. Raises `Unavailable`."""
        states = await self._store.topics.describe(list(topics))
        return {state.topic for state in states if state.subscribers}

    async def describe(self, topic: str) -> dict[str, object]:
        """A topic as contract §4 shows it."""
        (state,) = await self._store.topics.describe([topic])
        return topic_as_json(state)

    async def terms(self, topic: str) -> TopicTerms:
        """For how long a topic keeps its events, and itself."""
        return await self._store.topics.terms(topic)

    async def list_topics(self, after: str, limit: int) -> tuple[list[dict[str, object]], str | None]:
        """A page of topics after the name `after`, and the name after which the next page begins, or None.

        The broker's own topics, which begin with `_`, are left out.
        """
        names = await self._store.topics.names(after, limit + 1)
        shown = [name for name in names[:limit] if name[0] != "_"]
        states = await self._store.topics.describe(shown)
        return [topic_as_json(state) for state in states], names[limit - 1] if len(names) > limit else None


def topic_as_json(state: TopicState) -> dict[str, object]:
    """A topic as contract §4 shows it."""
    return {
        "topic": state.topic,
        "subscribers": state.subscribers,
        "events": state.events,
        "bytes": state.bytes,
        "first_id": None if state.first_id is None else format_id(state.first_id),
        "last_id": None if state.last_id is None else format_id(state.last_id),
        "closed": state.closed,
    }


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _logger.critical(
            "the task '%s' died; this instance is no longer ready",
            task.get_name(),
            exc_info=task.exception(),
        )
