"""An instance as the scripts see it: it calls them with the id that it has seen, and learns from their replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from redis import Redis

from broker.events import EventId, format_id, parse_id
from broker.stores.redis.formats import ReadReply, TopicPage, decode_page, decode_read
from broker.stores.redis.scripts import Script, load

PREFIX = "broker:{b}:"
STATE, NAMES, USED, KEYS, KEY_AGE, LEASES = (
    f"{PREFIX}{name}" for name in ("state", "names", "used", "keys", "keyage", "leases")
)
SCRIPTS = load()
DAY_MS = 86_400_000

_nonces = count()


def log_key(topic: str) -> str:
    return f"{PREFIX}log:{topic}"


def rec_key(topic: str) -> str:
    return f"{PREFIX}rec:{topic}"


def channel(topic: str) -> str:
    return f"broker:0:{topic}"


def to_id(text: bytes | str) -> EventId:
    parsed = parse_id(text if isinstance(text, str) else text.decode())
    assert parsed is not None, text
    return parsed


@dataclass(frozen=True, slots=True)
class Kept:
    """A topic's retention."""

    events: int = 1000
    bytes: int = 1 << 20
    ms: int = 3_600_000


@dataclass(frozen=True, slots=True)
class Published:
    """`ids` are those of the published entries, or the numbers that belong to the status."""

    status: int
    ids: list[EventId]
    known: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    id: EventId
    prev: EventId
    lines: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """A read of one topic."""

    last: EventId | None
    cleared_at: EventId | None
    cleared_after: EventId | None
    end: str
    retention: str
    more: bool
    entries: list[Entry]

    @property
    def ids(self) -> list[EventId]:
        return [entry.id for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Described:
    events: int
    bytes: int
    first: EventId | None
    last: EventId | None
    closed: bool = False


class Caller:
    """See above.

    Attributes:
        run: the server's run id, as it was read.
        seen: the highest id that it saw come out of the store.
        epoch: that of the last reply.
    """

    def __init__(self, client: Redis, run: str | None = None, *, memory_ms: int = 7 * DAY_MS) -> None:
        self.client = client
        self.run = run or str(client.info("server")["run_id"])
        self.memory_ms = memory_ms
        self.margin_ms = 10_000
        self.seen: EventId = 0
        self.epoch = 0
        self.born: EventId = 0
        self.floor: EventId = 0
        self.forgotten: EventId | None = None
        self.rewinds: list[tuple[EventId, EventId, EventId]] = []

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
        """Run a script; returns its reply after the last id and the epoch."""
        head = (self.run, format_id(self.seen), self.margin_ms, self.memory_ms)
        reply: Any = self.client.eval(script.text, len(keys), *keys, *head, *arguments)
        last, self.epoch, *rest = reply
        assert to_id(last) >= self.seen
        self.seen = to_id(last)
        return list(rest)

    def now_ms(self) -> int:
        """What the server's clock shows."""
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def publish(
        self,
        *items: tuple[str, bytes],
        kept: Kept | Mapping[str, Kept] = Kept(),
        nonce: str | None = None,
        retry_since: EventId | None = None,
        key: str = "",
        key_ms: int = 300_000,
        max_key_bytes: int = 1 << 20,
        ends: Sequence[str] = (),
        producer: tuple[str, int] | None = None,
        retention: str = "",
        reason: str = "closed",
        published_ms: int | None = None,
    ) -> Published:
        topics = list(dict.fromkeys((*(topic for topic, _ in items), *ends)))
        arguments: list[Any] = [f"n{next(_nonces)}" if nonce is None else nonce]
        arguments += ["" if retry_since is None else format_id(retry_since), key, key_ms, max_key_bytes]
        arguments += [self.now_ms() if published_ms is None else published_ms, len(topics)]
        for topic in topics:
            own = kept if isinstance(kept, Kept) else kept[topic]
            arguments += [topic, channel(topic), own.events, own.bytes, own.ms]
        arguments.append(len(items))
        for topic, lines in items:
            arguments += [topics.index(topic) + 1, lines]
        keys = [STATE, NAMES, USED, KEYS, KEY_AGE]
        for topic in topics:
            keys += [log_key(topic), rec_key(topic)]
        if ends or producer or retention:
            keys.append(LEASES)
            arguments += [*(producer or ("", 0)), retention, reason]
            arguments += [topics.index(topic) + 1 for topic in ends]
        status, known, closed, *ids = self.call(SCRIPTS.publish, keys, arguments)
        shown = [one if isinstance(one, int) else to_id(one) for one in ids]
        return Published(status, shown, known, bool(closed))

    def close(
        self, topic: str, reason: str = "closed", *, if_last: EventId | None = None, if_due: bool = False
    ) -> EventId | None:
        keys = [STATE, NAMES, USED, LEASES, log_key(topic), rec_key(topic)]
        last = "" if if_last is None else format_id(if_last)
        (end,) = self.call(SCRIPTS.close, keys, [topic, channel(topic), reason, last, int(if_due)])
        return _maybe(end)

    def lease(self, topic: str, ms: int | None, *, most: int = 100) -> bool:
        keys = [STATE, LEASES, rec_key(topic)]
        (taken,) = self.call(SCRIPTS.lease, keys, [topic, "" if ms is None else ms, most])
        return bool(taken)

    def due(self) -> list[str]:
        return [name.decode() for name in self.call(SCRIPTS.due, [STATE, LEASES], [100])]

    def read(
        self,
        *topics: tuple[str, str, str],
        probe: str = "",
        page_bytes: int = 1 << 20,
        page_entries: int = 10_000,
        max_age_ms: int = 3_600_000,
        newest: int = 0,
    ) -> list[Read]:
        """Read `(topic, after, upto)` each."""
        keys = [STATE]
        arguments: list[Any] = [probe, page_bytes, page_entries, len(topics)]
        for topic, after, upto in topics:
            keys += [log_key(topic), rec_key(topic)]
            arguments += [after, upto, max_age_ms, newest]
        born, floor, rewinds, _, forgotten, *answers = self.call(SCRIPTS.read, keys, arguments)
        self.born, self.floor, self.forgotten = to_id(born), to_id(floor), _maybe(forgotten)
        self.rewinds = []
        for text in rewinds.decode().split(";") if rewinds else []:
            lost, seen, resumed = map(to_id, text.split(" "))
            self.rewinds.append((lost, seen, resumed))
        return [_read(answer) for answer in answers]

    def read_one(self, topic: str, after: EventId = 0, upto: str = "+", **options: Any) -> Read:
        (answer,) = self.read((topic, format_id(after), upto), **options)
        return answer

    def read_page(self, topic: str, after: EventId) -> tuple[ReadReply, TopicPage]:
        """Read a topic as the broker does."""
        keys = [STATE, log_key(topic), rec_key(topic)]
        rest = self.call(SCRIPTS.read, keys, ["", 1 << 20, 10_000, 1, format_id(after), "+", 3_600_000, 0])
        reply = decode_read([format_id(self.seen).encode(), self.epoch, *rest])
        return reply, decode_page(reply.parts[0], reply.forgotten)

    def delete(self, topic: str) -> EventId | None:
        keys = [STATE, NAMES, USED, LEASES, log_key(topic), rec_key(topic)]
        (end,) = self.call(SCRIPTS.delete, keys, [topic, channel(topic)])
        return _maybe(end)

    def describe(self, *topics: str, max_age_ms: int = 3_600_000) -> list[Described]:
        keys = [STATE]
        for topic in topics:
            keys += [log_key(topic), rec_key(topic)]
        values = self.call(SCRIPTS.describe, keys, [len(topics), *[max_age_ms] * len(topics)])
        return [
            Described(events, size, _maybe(first), _maybe(last), bool(closed))
            for events, size, first, last, closed in _groups(values, 5)
        ]

    def forget(self, *, max_topics: int = 1000, most: int = 100, key_ms: int = 300_000) -> int:
        keys = [STATE, NAMES, USED, KEYS, KEY_AGE]
        (dropped,) = self.call(SCRIPTS.forget, keys, [max_topics, log_key(""), rec_key(""), most, key_ms])
        return int(dropped)


def age(client: Redis, topic: str, ms: int) -> None:
    """Age a topic by `ms`."""

    def earlier(event_id: EventId) -> str:
        return format_id(max(0, event_id - (ms << 64)))

    entries: Any = client.xrange(log_key(topic))
    client.delete(log_key(topic))
    for event_id, fields in entries:
        prev, nonce = fields[b"p"].decode().split(" ")
        moved: dict[Any, Any] = {"p": f"{earlier(to_id(prev))} {nonce}", "z": fields[b"z"], "l": fields[b"l"]}
        client.xadd(log_key(topic), moved, earlier(to_id(event_id)))
    for field in ("ms", "a", "t"):
        client.hincrby(rec_key(topic), field, -ms)
    client.zincrby(USED, -ms, topic)


def _read(answer: list[Any]) -> Read:
    last, cleared_at, cleared_after, end, retention, more, *flat = answer
    entries = [Entry(to_id(event_id), to_id(prev), lines) for event_id, prev, lines in _groups(flat, 3)]
    return Read(
        _maybe(last),
        _maybe(cleared_at),
        _maybe(cleared_after),
        end.decode(),
        retention.decode(),
        bool(more),
        entries,
    )


def _maybe(text: bytes) -> EventId | None:
    return to_id(text) if text else None


def _groups(values: list[Any], size: int) -> Iterator[tuple[Any, ...]]:
    each = iter(values)
    return zip(*[each] * size, strict=True)
