"""The calls of scripts that serve clients and housekeeping: publish, close, delete, describe, list, forget.

Rules: no state but a counter of calls; the formats are described at the heads of the scripts in `lua/`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import count

from broker.errors import Closed, OutOfOrder
from broker.events import Clock, EventId, format_id
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, TopicState
from broker.stores.idempotency import keys_full
from broker.stores.leases import MAX_LEASES, leases_full
from broker.stores.redis.connections import Connections
from broker.stores.redis.counters import RedisCounters
from broker.stores.redis.formats import decode_id
from broker.stores.redis.link import Argument, Reply
from broker.stores.redis.names import Names
from broker.stores.redis.options import StoreOptions
from broker.stores.redis.scripts import Scripts
from broker.stores.terms import TopicTerms
from broker.topics import Retention, RetentionRules

TOPICS_PER_CALL = 100
BEHIND_BYTES = 8 << 20
"""Of calls that wait for the server's answer: several thousand small ones."""
RETRY_AT = 1  # index of publish.lua's argument for retries, among its own arguments

_PUBLISHED, _REPLAYED, _NO_ROOM, _CLOSED, _OUT_OF_ORDER = range(5)


class Commands:
    """Implements `stores.base.Topics`.

    Args:
        subscribers: counts them by topic.
        clock: of this instance, in seconds since 1970.
    """

    def __init__(
        self,
        names: Names,
        scripts: Scripts,
        retention: RetentionRules,
        options: StoreOptions,
        connections: Connections,
        subscribers: RedisCounters,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._names = names
        self._scripts = scripts
        self._retention = retention
        self._options = options
        self._key_ms = int(options.idempotency_seconds * 1000)
        self._calls = connections.calls
        self._writes = connections.writes
        self._subscribers = subscribers
        self._nonces = count()
        self._publish_keys = names.keys("state", "names", "used", "keys", "keyage")
        self._close_keys = names.keys("state", "names", "used", "leases")
        self._lease_keys = names.keys("state", "leases")
        self._leases_key = names.key("leases")

    @property
    def is_behind(self) -> bool:
        return self._writes.pending_bytes > BEHIND_BYTES

    def publish_at_once(self, topic: str, events: Sequence[bytes]) -> EventId | None:
        return None  # the server's answer takes a round trip

    async def publish(
        self,
        items: Sequence[Item],
        key: str | None = None,
        options: PublishOptions = NO_OPTIONS,
        published_at: float = 0.0,
    ) -> Receipt:
        assert key is None or options.producer is None, "a producer's sequence replaces keys"
        numbers: dict[str, int] = {}  # of the topics, from 1
        for topic, _ in items:
            numbers.setdefault(topic, len(numbers) + 1)
        for topic in options.ends:
            numbers.setdefault(topic, len(numbers) + 1)
        keys: list[Argument] = [*self._publish_keys]
        args: list[Argument] = [
            f"{self._names.instance}:{next(self._nonces):x}",
            "",
            key if key is not None and items else "",
            self._key_ms,
            self._options.max_key_bytes,
            self._published_ms(published_at),
            len(numbers),
        ]
        for topic in numbers:
            keep = self._retention.of(topic)
            keys += self._names.topic_keys(topic)
            args += (topic, self._names.channel(topic), keep.events, keep.bytes, int(keep.seconds * 1000))
        args.append(len(items))
        for topic, lines in items:
            args += (numbers[topic], lines)
        if options is not NO_OPTIONS:
            keys.append(self._leases_key)
            args += self._option_args(options, numbers)
        reply = await self._writes.call(self._scripts.publish, keys, args, retry_at=RETRY_AT, is_write=True)
        return self._receipt(reply, numbers)

    def _published_ms(self, published_at: float) -> int:
        waited = time.monotonic() - published_at if published_at else 0.0
        return round((self._clock() - waited) * 1000)

    def _option_args(self, options: PublishOptions, numbers: Mapping[str, int]) -> Sequence[Argument]:
        """The arguments of publish.lua after the entries."""
        name, first = options.producer or ("", 0)
        kept = ""
        if options.retain_seconds is not None:
            retention = self._retention.with_retain(options.retain_seconds)
            kept = f"{int(retention.seconds * 1000)} {retention.events} {retention.bytes}"
        return (name, first, kept, options.reason, *(numbers[topic] for topic in options.ends))

    def _receipt(self, reply: Reply, numbers: Mapping[str, int]) -> Receipt:
        _, _, status, known, closed, *rest = reply
        if status == _NO_ROOM:
            raise keys_full(self._options.idempotency_seconds)
        if status == _CLOSED:
            topics = list(numbers)
            raise Closed([topics[number - 1] for number in rest])
        if status == _OUT_OF_ORDER:
            raise OutOfOrder(rest[0])
        return Receipt(
            list(map(decode_id, rest)),
            replayed=status == _REPLAYED,
            closed=bool(closed),
            known=known,
        )

    async def close(self, topic: str, reason: str, *, if_last: EventId | None = None) -> EventId | None:
        return await self._close(topic, reason, "" if if_last is None else format_id(if_last))

    async def _close(
        self, topic: str, reason: str, if_last: str = "", *, if_abandoned: bool = False
    ) -> EventId | None:
        reply = await self._writes.call(
            self._scripts.close,
            [*self._close_keys, *self._names.topic_keys(topic)],
            [topic, self._names.channel(topic), reason, if_last, int(if_abandoned)],
            is_write=True,
        )
        return decode_id(reply[2]) if reply[2] else None

    async def lease(self, topic: str, seconds: float | None) -> None:
        keys = [*self._lease_keys, self._names.key("rec", topic)]
        ms: Argument = "" if seconds is None else int(seconds * 1000)
        reply = await self._writes.call(self._scripts.lease, keys, [topic, ms, MAX_LEASES], is_write=True)
        if not reply[2]:
            raise leases_full()

    async def delete(self, topic: str) -> None:
        keys = [*self._close_keys, *self._names.topic_keys(topic)]
        await self._writes.call(
            self._scripts.delete, keys, [topic, self._names.channel(topic)], is_write=True
        )

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        parts = [topics[at : at + TOPICS_PER_CALL] for at in range(0, len(topics), TOPICS_PER_CALL)]
        replies = await asyncio.gather(*map(self._describe, parts))
        values = iter([value for reply in replies for value in reply])
        subscribers = await self._subscribers.counts(topics) if topics else ()
        return [
            TopicState(
                topic,
                subscribers=watching,
                events=int(events),
                bytes=int(size),
                first_id=decode_id(first) if first else None,
                last_id=decode_id(last) if last else None,
                closed=bool(is_closed),
            )
            for topic, watching, events, size, first, last, is_closed in zip(
                topics, subscribers, *[values] * 5, strict=True
            )
        ]

    async def _describe(self, topics: Sequence[str]) -> Sequence[Reply]:
        """Five values for each topic. A call for all topics of a request would keep the server from others for long."""
        keys = [self._names.key("state")]
        ages: list[Argument] = []
        for topic in topics:
            keys += self._names.topic_keys(topic)
            ages.append(int(self._retention.of(topic).seconds * 1000))
        reply: Sequence[Reply] = await self._calls.call(self._scripts.describe, keys, [len(topics), *ages])
        return reply[2:]

    async def names(self, after: str, limit: int) -> Sequence[str]:
        start = f"({after}" if after else "-"
        found = await self._calls.command(
            "ZRANGEBYLEX", self._names.key("names"), start, "+", "LIMIT", 0, limit
        )
        watched = await self._subscribers.names_after(after, limit)
        return sorted({*watched, *(name.decode() for name in found)})[:limit]

    async def count(self) -> int:
        key = self._names.key("names")
        all_of_them, own = await asyncio.gather(
            self._calls.command("ZCARD", key), self._calls.command("ZRANGEBYLEX", key, "[_", "(`")
        )
        return int(all_of_them) - len(own)

    async def terms(self, topic: str) -> TopicTerms:
        asked, until, (seconds, microseconds) = await asyncio.gather(
            self._calls.command("HGET", self._names.topic_keys(topic)[1], "r"),
            self._calls.command("ZSCORE", self._leases_key, topic),
            self._calls.command("TIME"),
        )
        retention = self._retention.of(topic)
        if asked is not None:
            ms, events, size = map(int, asked.split())
            retention = Retention(events, size, ms / 1000)
        now = int(seconds) + int(microseconds) / 1e6
        return TopicTerms(retention, None if until is None else max(0.0, float(until) / 1000 - now))

    # Housekeeping

    async def close_abandoned(self) -> None:
        """Close the topics with an expired lease."""
        while True:
            _, _, *topics = await self._calls.call(self._scripts.due, self._lease_keys, [TOPICS_PER_CALL])
            closing = (self._close(name.decode(), "abandoned", if_abandoned=True) for name in topics)
            await asyncio.gather(*closing)
            if len(topics) < TOPICS_PER_CALL:
                return

    async def forget(self) -> None:
        """Remove expired idempotency keys, and topics that were unused for too long or are too many."""
        prefixes = [self._names.key_prefix("log"), self._names.key_prefix("rec")]
        args: Sequence[Argument] = [self._options.max_topics, *prefixes, TOPICS_PER_CALL, self._key_ms]
        while True:
            reply = await self._calls.call(self._scripts.forget, self._publish_keys, args)
            if reply[2] < TOPICS_PER_CALL:
                return
