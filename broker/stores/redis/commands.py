"""What is asked of the server in one call: publish, close, delete, describe, list, forget.

Rules: no state but the count of its calls; the forms are those at the heads of the scripts in `lua/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from broker.errors import Closed, OutOfOrder
from broker.events import EventId, format_id
from broker.stores.base import NO_OPTIONS, Item, PublishOptions, Receipt, TopicState
from broker.stores.idempotency import keys_full
from broker.stores.leases import MAX_LEASES, leases_full
from broker.stores.redis.counters import Counters
from broker.stores.redis.link import Argument, Reply
from broker.stores.redis.messages import to_id
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Scripts
from broker.topics import RetentionRules

TOPICS_A_FORGET = 100
TOPICS_A_SWEEP = 100
RETRY_AT = 1  # in the arguments of publish.lua, behind those of all scripts

_PUBLISHED, _REPLAYED, _NO_ROOM, _CLOSED, _OUT_OF_ORDER = range(5)


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """The settings of the same names."""

    prefix: str
    failover_margin_ms: int
    wait_replicas: int
    max_log_bytes: int
    max_topics: int
    topic_memory_seconds: float
    idempotency_seconds: float
    max_key_bytes: int


class Commands:
    """See the module; what each method promises stands at `stores.base.Topics`.

    Args:
        writes: where what must be on replicas is called; `calls` is for all else.
    """

    def __init__(
        self,
        names: Names,
        texts: Scripts,
        retention: RetentionRules,
        limits: CommandLimits,
        *,
        calls: ScriptPipeline,
        writes: ScriptPipeline,
        presence: Counters,
    ) -> None:
        self._names = names
        self._texts = texts
        self._retention = retention
        self._limits = limits
        self._calls = calls
        self._writes = writes
        self._presence = presence
        self._nonces = count()

    async def publish(
        self, items: Sequence[Item], key: str | None = None, options: PublishOptions = NO_OPTIONS
    ) -> Receipt:
        assert key is None or options.producer is None, "a producer's own numbers tell what counts once"
        topics = dict.fromkeys(topic for topic, _ in items)
        topics.update(dict.fromkeys(options.ends))
        numbers = {topic: number for number, topic in enumerate(topics, 1)}
        keys: list[Argument] = [*self._names.shared_keys("state", "names", "used", "keys", "keyage")]
        args: list[Argument] = [
            f"{self._names.instance}:{next(self._nonces):x}",
            "",
            key if key is not None and items else "",
            int(self._limits.idempotency_seconds * 1000),
            self._limits.max_key_bytes,
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
            keys.append(self._names.key("leases"))
            args += self._option_args(options, numbers)
        reply = await self._writes.call(self._texts.publish, keys, args, retry_at=RETRY_AT, is_write=True)
        return self._receipt(reply, list(numbers))

    def _option_args(self, options: PublishOptions, numbers: Mapping[str, int]) -> Sequence[Argument]:
        """What publish.lua takes behind the entries."""
        name, first = options.producer or ("", 0)
        kept = ""
        if options.retain_seconds is not None:
            retention = self._retention.with_retain(options.retain_seconds)
            kept = f"{int(retention.seconds * 1000)} {retention.events} {retention.bytes}"
        return (name, first, kept, *(numbers[topic] for topic in options.ends))

    def _receipt(self, reply: Reply, topics: Sequence[str]) -> Receipt:
        _, _, status, known, closed, *rest = reply
        if status == _NO_ROOM:
            raise keys_full(self._limits.idempotency_seconds)
        if status == _CLOSED:
            raise Closed([topics[number - 1] for number in rest])
        if status == _OUT_OF_ORDER:
            raise OutOfOrder(rest[0])
        return Receipt(
            [to_id(event_id) for event_id in rest],
            replayed=status == _REPLAYED,
            closed=bool(closed),
            known=known,
        )

    async def close(
        self, topic: str, reason: str, *, if_last: EventId | None = None, if_due: bool = False
    ) -> EventId | None:
        """End a topic; with `if_due` only where its lease is over."""
        keys = [*self._names.shared_keys("state", "names", "used", "leases"), *self._names.topic_keys(topic)]
        last = "" if if_last is None else format_id(if_last)
        reply = await self._writes.call(
            self._texts.close,
            keys,
            [topic, self._names.channel(topic), reason, last, int(if_due)],
            is_write=True,
        )
        return to_id(reply[2]) if reply[2] else None

    async def lease(self, topic: str, seconds: float | None) -> None:
        keys = [*self._names.shared_keys("state", "leases"), self._names.key("rec", topic)]
        ms: Argument = "" if seconds is None else int(seconds * 1000)
        reply = await self._writes.call(self._texts.lease, keys, [topic, ms, MAX_LEASES], is_write=True)
        if not reply[2]:
            raise leases_full()

    async def end_abandoned(self) -> None:
        """End the topics whose leases are over; several instances may do so at once."""
        keys = self._names.shared_keys("state", "leases")
        while True:
            _, _, *topics = await self._calls.call(self._texts.due, keys, [TOPICS_A_SWEEP])
            for name in topics:
                await self.close(name.decode(), "abandoned", if_due=True)
            if len(topics) < TOPICS_A_SWEEP:
                return

    async def delete(self, topic: str) -> None:
        keys = [*self._names.shared_keys("state", "names", "used", "leases"), *self._names.topic_keys(topic)]
        await self._writes.call(self._texts.delete, keys, [topic, self._names.channel(topic)], is_write=True)

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        if not topics:
            return []
        keys = [self._names.key("state")]
        ages: list[Argument] = []
        for topic in topics:
            keys += self._names.topic_keys(topic)
            ages.append(int(self._retention.of(topic).seconds * 1000))
        reply = await self._calls.call(self._texts.describe, keys, [len(topics), *ages])
        subscribers = await self._presence.counts(topics)
        return [
            TopicState(
                topic,
                subscribers=watching,
                events=int(reply[at]),
                bytes=int(reply[at + 1]),
                first_id=to_id(reply[at + 2]) if reply[at + 2] else None,
                last_id=to_id(reply[at + 3]) if reply[at + 3] else None,
                closed=bool(reply[at + 4]),
            )
            for topic, watching, at in zip(topics, subscribers, range(2, len(reply), 5), strict=True)
        ]

    async def names(self, after: str, limit: int) -> Sequence[str]:
        since = f"({after}" if after else "-"
        found = await self._calls.command(
            "ZRANGEBYLEX", self._names.key("names"), since, "+", "LIMIT", 0, limit
        )
        watched = {topic for topic in await self._presence.topics() if topic > after}
        return sorted(watched.union(name.decode() for name in found))[:limit]

    async def forget(self) -> None:
        """The store's own housekeeping: what nobody can ask for any more."""
        keys = self._names.shared_keys("state", "names", "used", "keys", "keyage")
        prefixes = [self._names.key_prefix("log"), self._names.key_prefix("rec")]
        while True:
            reply = await self._calls.call(
                self._texts.forget, keys, [self._limits.max_topics, *prefixes, TOPICS_A_FORGET]
            )
            if reply[2] < TOPICS_A_FORGET:
                return
