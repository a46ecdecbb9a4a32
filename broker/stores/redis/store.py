"""The store in a Redis or Valkey server, shared by all instances that are given the same one (design §2, §4).

Rules: joins the parts of this package to what `stores.base.Store` promises; its tasks are owned here.

What is published goes through a script that appends it to the topic's stream and says it on the topic's channel, in one step.
Instances hear the channels of the topics that they watch and keep copies of these topics' logs; the streams fill copies where
they begin, and mend them where something was missed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from broker.errors import RateLimited, Unavailable
from broker.events import Clock, EventId, id_at
from broker.log import Log
from broker.logs import Logs
from broker.start import After, Last, Latest, Since, Start
from broker.stores.base import Deliver, Health, Receipt, TopicState
from broker.stores.redis.address import Address
from broker.stores.redis.calls import Calls, Seen
from broker.stores.redis.copies import Copies, Copy
from broker.stores.redis.filling import Filling, settled
from broker.stores.redis.link import Argument, Link
from broker.stores.redis.listener import Listener
from broker.stores.redis.messages import Probe, heard, to_id
from broker.stores.redis.names import Names
from broker.stores.redis.presence import Presence
from broker.stores.redis.scripts import Scripts, load
from broker.topics import RetentionRules

WATCH_SECONDS = 0.9
LINGER_SECONDS = 30.0
LINGERING_MOST = 20_000
PROBE_SECONDS = 1.0
DEAF_SECONDS = 2.0
START_SECONDS = 5.0
FORGET_SECONDS = 10.0
TOPICS_A_FORGET = 100
SWEEP_SHARE = 60
SWEEP_LEAST = 200
WATCH_LOOKS = 8
RETRY_AT = 1  # in the arguments of publish.lua, behind those of all scripts

_PUBLISHED, _REPLAYED, _NO_ROOM = range(3)

_log = logging.getLogger("broker")


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of the same names."""

    prefix: str
    failover_margin_ms: int
    wait_replicas: int
    max_log_bytes: int
    max_topics: int
    topic_memory_seconds: float
    idempotency_seconds: float
    max_key_bytes: int


class RedisStore:
    """See `stores.base.Store`. Made within a running loop.

    Args:
        clock: this instance's; ids come from the server's.
        texts: what runs inside the server.
    """

    def __init__(
        self,
        address: Address,
        retention: RetentionRules,
        limits: Limits,
        *,
        clock: Clock,
        texts: Scripts | None = None,
    ) -> None:
        self.name = f"redis at {address.shown}"
        self._address = address
        self._retention = retention
        self._limits = limits
        self._clock = clock
        self._names = Names(limits.prefix, address.database, secrets.token_hex(4))
        self._scripts = texts or load()
        self._deliver: Deliver = _nobody
        self._tasks: set[asyncio.Task[Any]] = set()
        self._nonces = count()
        self._lingering: dict[str, float] = {}
        self._forgot_at = time.monotonic()
        self._probed_at = 0.0
        self._lag_seconds = 0.0
        self._mended = 0
        self._asked_for: EventId = 0
        self._defect: BaseException | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._logs = Logs(
            0,
            retention,
            max_bytes=limits.max_log_bytes,
            max_topics=limits.max_topics,
            topic_memory_seconds=limits.topic_memory_seconds,
        )
        self._seen = Seen()
        self._calls = self._make_calls(self._linked, wait_replicas=0)
        # A connection does nothing while it waits for replicas, so who reads has one on which nobody does.
        self._writes = (
            self._make_calls(lambda _link: None, wait_replicas=limits.wait_replicas)
            if limits.wait_replicas
            else self._calls
        )
        self._listener = Listener(
            address,
            self._names.probe_channel,
            flowing=self._flowing,
            on_message=self._heard,
            on_ready=self._listening,
            on_lost=self._deaf,
        )
        self._copies = Copies(
            self._logs,
            clock,
            topic_memory_seconds=limits.topic_memory_seconds,
            deliver=self._delivered,
            on_hole=self._mend,
        )
        self._filling = Filling(
            self._names,
            self._scripts.read,
            self._calls,
            self._listener,
            self._copies,
            retention,
            self._flowing,
            self._spawn,
        )
        self._presence = Presence(self._names, self._calls)
        self._run_id = ""

    def _make_calls(self, on_link: Callable[[Link], None], *, wait_replicas: int) -> Calls:
        return Calls(
            self._address,
            self._seen,
            margin_ms=self._limits.failover_margin_ms,
            topic_memory_ms=int(self._limits.topic_memory_seconds * 1000),
            wait_replicas=wait_replicas,
            on_link=on_link,
        )

    # Life

    async def start(self, deliver: Deliver) -> None:
        """Begin; a server that can't be reached yet is waited for a while, then this instance isn't ready until it is."""
        self._deliver = deliver
        calls = dict.fromkeys((self._calls, self._writes))
        for owned in (
            *(one.run() for one in calls),
            self._listener.run(),
            self._presence.run(),
            self._probe(),
        ):
            self._spawn(owned)
        try:
            async with asyncio.timeout(START_SECONDS):
                for one in calls:
                    await one.wait_connected()
                await self._filling.sync()
        except TimeoutError:
            _log.warning("starting without the store: %s", self._problem())
        except Unavailable as error:
            if self._calls.refused:
                await self.stop()
                raise Unavailable(f"{self._address.shown} lets nobody in: {self._calls.problem}") from None
            _log.warning("starting without the store: %s", error.detail)

    async def stop(self) -> None:
        self._deliver = _nobody
        await self._presence.leave()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, owned: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(owned)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and not isinstance(failure, Unavailable):
            self._defect = failure
            _log.critical("a task of the store died; this instance is not ready any more", exc_info=failure)

    def _linked(self, link: Link) -> None:
        self._presence.write_all()
        if self._run_id != link.run_id:
            _warn_of(link.info)
        self._run_id = link.run_id
        self._check_one_server()

    def _check_one_server(self) -> None:
        """What one server says goes with what the same one answers: two may both take writes, while one takes over."""
        if self._run_id and self._listener.run_id not in ("", self._run_id):
            self._listener.reset("the store is another server now")

    async def _probe(self) -> None:
        """Hear ourselves, again and again: that is how an instance knows that it would hear others."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._flowing.wait()
            if not self._listener.is_ready:
                continue
            generation, began = self._listener.generation, time.monotonic()
            try:
                last = await self._filling.sync()
            except Unavailable:
                continue
            try:
                async with asyncio.timeout(DEAF_SECONDS):
                    await self._copies.heard_to.reached(last)
                self._probed_at = time.monotonic()
                self._lag_seconds = self._probed_at - began
            except TimeoutError:
                if generation == self._listener.generation and self._flowing.is_set():
                    self._listener.reset("what is published isn't heard")

    # What is heard

    def _heard(self, channel: bytes, data: bytes) -> None:
        try:
            said = heard(data)
            topic = channel[len(self._names.channel_prefix) :].decode()
        except ValueError:
            _log.warning("somebody else says something on the channel %r", channel)
            return
        self._seen.note(said.last)
        if isinstance(said, Probe):
            self._copies.heard(said.last, said.epoch)
            return
        self._copies.arrived(topic, said)
        if said.last > self._copies.heard_to.value:
            self._ask_for(said.last)

    def _ask_for(self, last: EventId) -> None:
        """A call for several topics may say its end where nobody listens here: then ask, lest readers wait for a probe."""
        if not self._asked_for:
            asyncio.get_running_loop().call_soon(self._ask)
        self._asked_for = max(self._asked_for, last)

    def _ask(self) -> None:
        last, self._asked_for = self._asked_for, 0
        if last > self._copies.heard_to.value:
            self._spawn(self._hear_all())

    async def _hear_all(self) -> None:
        await self._filling.sync()

    def _delivered(self, topic: str, size: int) -> None:
        if not self._deliver(topic, size):
            self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def _listening(self) -> None:
        self._check_one_server()
        self._probed_at = time.monotonic()
        for copy in self._copies:
            self._mend(copy)

    def _deaf(self) -> None:
        self._copies.deaf()

    def _mend(self, copy: Copy) -> None:
        self._mended += copy.was_live
        self._filling.make_live(copy, copy.tail)

    # Publish

    @property
    def born(self) -> EventId:
        return self._copies.facts.born

    @property
    def last_id(self) -> EventId:
        return self._seen.value

    @property
    def complete_to(self) -> EventId:
        return self._copies.complete_to.value

    def is_lost(self, cursor: EventId) -> bool:
        return self._copies.facts.is_lost(cursor)

    async def publish(self, items: Sequence[tuple[str, bytes]], key: str | None = None) -> Receipt:
        numbers = {
            topic: number for number, topic in enumerate(dict.fromkeys(topic for topic, _ in items), 1)
        }
        keys: list[Argument] = [*self._names.shared_keys("state", "names", "used", "keys", "keyage")]
        args: list[Argument] = [
            f"{self._names.instance}:{next(self._nonces):x}",
            "",
            key or "",
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
        reply = await self._writes.call(self._scripts.publish, keys, args, retry_at=RETRY_AT, is_write=True)
        status = reply[2]
        if status == _NO_ROOM:
            raise RateLimited(
                "Too many idempotency keys are remembered; try again later, or publish without a key.",
                retry_after=max(1, int(self._limits.idempotency_seconds / 10)),
            )
        return Receipt([to_id(event_id) for event_id in reply[3:]], replayed=status == _REPLAYED)

    async def delete(self, topic: str) -> None:
        keys = [*self._names.shared_keys("state", "names", "used"), *self._names.topic_keys(topic)]
        await self._writes.call(
            self._scripts.delete, keys, [topic, self._names.channel(topic)], is_write=True
        )

    # Watch

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        copies = [self._hold(topic) for topic in topics]
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await self._prepare(copies, start)
        except TimeoutError:
            self.unwatch(topics)
            raise Unavailable(f"The store can't be read now: {self._problem()}.", retry_after=2) from None
        except BaseException:
            self.unwatch(topics)
            raise
        return [copy.log for copy in copies]

    def _hold(self, topic: str) -> Copy:
        copy = self._copies.open(topic)
        copy.watchers += 1
        self._lingering.pop(topic, None)
        self._presence.note(topic, copy.watchers)
        return copy

    def unwatch(self, topics: Sequence[str]) -> None:
        for topic in topics:
            copy = self._copies.get(topic)
            assert copy is not None
            copy.watchers -= 1
            self._presence.note(topic, copy.watchers)
            if not copy.watchers:
                self._linger(copy)

    def _linger(self, copy: Copy) -> None:
        """Keep a copy for a while, for who comes back; as long as there aren't too many."""
        if not copy.was_live:
            self._drop(copy.topic)
            return
        self._lingering[copy.topic] = time.monotonic()
        if len(self._lingering) > LINGERING_MOST:
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            self._drop(oldest)

    async def _prepare(self, copies: Sequence[Copy], start: Start) -> None:
        """Return when `copies` are live, reach back as far as `start` asks, and are complete as of now."""
        for copy in copies:
            if not copy.is_live:
                self._filling.make_live(copy, _hint(start))
        several = len(copies) > 1
        ahead = isinstance(start, After) and start.cursor > self.last_id
        last = await self._filling.sync() if several or ahead or isinstance(start, Latest) else 0
        for _ in range(WATCH_LOOKS):
            waiting = next((copy for copy in copies if not copy.is_live), None)
            if waiting is not None:
                self._filling.make_live(waiting, _hint(start))
                assert waiting.task is not None
                await settled(waiting.task)
                continue
            short = next((copy for copy in copies if not copy.log.reaches(self._need(copy, start))), None)
            if short is not None:
                await self._filling.extend(short, self._need(short, start))
                continue
            if not several or self.complete_to >= last:
                return
            await self._copies.complete_to.reached(last)
        raise TimeoutError

    def _need(self, copy: Copy, start: Start) -> EventId:
        """From where on the copy must tell the truth."""
        match start:
            case Latest():
                return copy.log.last
            case After(cursor):
                return min(cursor, self.last_id)
            case Since(seconds):
                return min(max(0, id_at(seconds) - 1), self.last_id)
            case Last(number) if copy.log.visible()[2] >= number:
                return copy.log.last
            case _:
                return 0

    def written(self, topic: str) -> None:
        copy = self._copies.get(topic)
        if copy is not None:
            self._logs.trim(topic, copy.log, self._clock())

    def sweep(self) -> None:
        self._logs.sweep(self._clock(), SWEEP_LEAST + len(self._logs) // SWEEP_SHARE)
        now = time.monotonic()
        while self._lingering:
            topic, since = next(iter(self._lingering.items()))
            if now - since < LINGER_SECONDS:
                break
            del self._lingering[topic]
            self._drop(topic)
        if now - self._forgot_at >= FORGET_SECONDS and not self._calls.problem:
            self._forgot_at = now
            self._spawn(self._forget())

    def _drop(self, topic: str) -> None:
        copy = self._copies.get(topic)
        if copy is None or copy.watchers:
            return
        for task in (copy.task, copy.extending):
            if task is not None:
                task.cancel()
        self._listener.unsubscribe(self._names.channel(topic))
        self._copies.drop(copy)

    async def _forget(self) -> None:
        """The store's own housekeeping: what nobody can ask for any more."""
        keys = self._names.shared_keys("state", "names", "used", "keys", "keyage")
        prefixes = [self._names.key_prefix("log"), self._names.key_prefix("rec")]
        while True:
            reply = await self._calls.call(
                self._scripts.forget, keys, [self._limits.max_topics, *prefixes, TOPICS_A_FORGET]
            )
            if reply[2] < TOPICS_A_FORGET:
                return

    # Look

    async def describe(self, topics: Sequence[str]) -> Sequence[TopicState]:
        if not topics:
            return []
        keys = [self._names.key("state")]
        ages: list[Argument] = []
        for topic in topics:
            keys += self._names.topic_keys(topic)
            ages.append(int(self._retention.of(topic).seconds * 1000))
        reply = await self._calls.call(self._scripts.describe, keys, [len(topics), *ages])
        subscribers = await self._presence.counts(topics)
        return [
            TopicState(
                topic,
                subscribers=watching,
                events=int(reply[at]),
                bytes=int(reply[at + 1]),
                first_id=to_id(reply[at + 2]) if reply[at + 2] else None,
                last_id=to_id(reply[at + 3]) if reply[at + 3] else None,
            )
            for topic, watching, at in zip(topics, subscribers, range(2, len(reply), 4), strict=True)
        ]

    async def topics(self, after: str, limit: int) -> Sequence[str]:
        since = f"({after}" if after else "-"
        found = await self._calls.command(
            "ZRANGEBYLEX", self._names.key("names"), since, "+", "LIMIT", 0, limit
        )
        watched = {topic for topic in await self._presence.topics() if topic > after}
        return sorted(watched.union(name.decode() for name in found))[:limit]

    @property
    def log_bytes(self) -> int:
        return self._logs.bytes

    @property
    def topic_count(self) -> int:
        return len(self._copies)

    @property
    def health(self) -> Health:
        return Health(
            connected=not self._calls.problem and not self._listener.problem,
            connections=self._calls.connections + self._listener.generation,
            mended=self._mended,
            lag_seconds=self._lag_seconds,
        )

    def checks(self) -> dict[str, str]:
        silent = time.monotonic() - self._probed_at > PROBE_SECONDS + 2 * DEAF_SECONDS
        deaf = silent and self._flowing.is_set()
        listening = "nothing is heard of what is published" if deaf else "ok"
        return {
            "store": self._calls.problem or self._writes.problem or "ok",
            "channels": self._listener.problem or listening,
            "copies": "ok" if self._copies.is_whole else "reading what was missed",
            "store tasks": "ok" if self._defect is None else "failed; restart this instance",
        }

    def _problem(self) -> str:
        return (
            self._calls.problem
            or self._writes.problem
            or self._listener.problem
            or "it doesn't answer in time"
        )


def _hint(start: Start) -> EventId | None:
    """Where a copy that is made for `start` begins; None for now."""
    match start:
        case Latest():
            return None
        case After(cursor):
            return cursor
        case Since(seconds):
            return max(0, id_at(seconds) - 1)
        case _:
            return 0


def _warn_of(info: Mapping[str, str]) -> None:
    """Say what of the server's configuration loses events."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _log.warning("the store's maxmemory-policy is %s: it will evict logs; set it to noeviction", policy)
    if info.get("aof_enabled") == "0":
        _log.warning("the store has no append-only file: its restart loses events; set appendonly to yes")


def _nobody(_topic: str, _size: int) -> bool:
    """Before `start` and after `stop` nobody is delivered to."""
    return True
