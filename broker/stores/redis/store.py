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
from collections.abc import Callable, Mapping, Sequence

from broker.errors import Unavailable
from broker.events import Clock, EventId
from broker.log.log import Log
from broker.log.start import Start
from broker.log.table import LogTable
from broker.stores.base import NO_OWNER, StoreOwner, StoreStats, WatchedLogs
from broker.stores.redis.address import Address
from broker.stores.redis.broadcast import RedisBroadcast
from broker.stores.redis.catch_up import AGAIN_SECONDS, CatchUp
from broker.stores.redis.commands import CommandLimits, Commands
from broker.stores.redis.counters import Counters
from broker.stores.redis.housekeeping import Housekeeping
from broker.stores.redis.link import Link
from broker.stores.redis.messages import Probe, heard
from broker.stores.redis.names import Names
from broker.stores.redis.pubsub import PubSubReader
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.script_pipeline import ScriptPipeline, Seen
from broker.stores.redis.scripts import Scripts, load
from broker.stores.redis.task_owner import TaskOwner
from broker.stores.redis.watches import Watches
from broker.topics import RetentionRules

PROBE_SECONDS = 1.0
DEAF_SECONDS = 2.0
START_SECONDS = 5.0
SWEEP_SHARE = 60
SWEEP_LEAST = 200

_logger = logging.getLogger("broker")


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
        limits: CommandLimits,
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
        self._notice_channel = self._names.notice_channel.encode()
        self._scripts = texts or load()
        self._owner: StoreOwner = NO_OWNER
        self._tasks = TaskOwner()
        self._probed_at = 0.0
        self._lag_seconds = 0.0
        self._mended = 0
        self._asked_for: EventId = 0
        self._is_disturbed = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._logs = LogTable(
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
        self._listener = PubSubReader(
            address,
            (self._names.probe_channel, self._names.notice_channel),
            flowing=self._flowing,
            on_message=self._heard,
            on_ready=self._listening,
            on_lost=self._disconnected,
        )
        self._copies = Replicas(
            self._logs,
            clock,
            topic_memory_seconds=limits.topic_memory_seconds,
            deliver=self._delivered,
            on_hole=self._mend,
        )
        self._filling = CatchUp(
            self._names,
            self._scripts.read,
            self._calls,
            self._listener,
            self._copies,
            retention,
            self._flowing,
            self._tasks.spawn,
        )
        self._presence = Counters(self._names, self._calls)
        self._holding = self.counters = Counters(self._names, self._calls, "held")
        self._notices = self.broadcast = RedisBroadcast(
            self._names, self._calls, clock, lambda notice: self._owner.on_broadcast(notice)
        )
        self._operations = self.topics = Commands(
            self._names,
            self._scripts,
            retention,
            limits,
            calls=self._calls,
            writes=self._writes,
            presence=self._presence,
        )
        self._upkeep = Housekeeping(self._operations, self._tasks.spawn)
        self._watching = Watches(
            self._names,
            self._seen,
            self._copies,
            self._filling,
            self._listener,
            self._presence,
            self._problem,
        )
        self._run_id = ""
        self.logs: WatchedLogs = self

    def _make_calls(self, on_link: Callable[[Link], None], *, wait_replicas: int) -> ScriptPipeline:
        return ScriptPipeline(
            self._address,
            self._seen,
            margin_ms=self._limits.failover_margin_ms,
            topic_memory_ms=int(self._limits.topic_memory_seconds * 1000),
            wait_replicas=wait_replicas,
            on_link=on_link,
        )

    # Life

    async def start(self, owner: StoreOwner) -> None:
        """Begin; a server that can't be reached yet is waited for a while, then this instance isn't ready until it is."""
        self._owner = owner
        calls = dict.fromkeys((self._calls, self._writes))
        for owned in (
            *(one.run() for one in calls),
            self._listener.run(),
            self._presence.run(),
            self._holding.run(),
            self._probe(),
        ):
            self._tasks.spawn(owned)
        try:
            async with asyncio.timeout(START_SECONDS):
                for one in calls:
                    await one.wait_connected()
                await self._filling.sync()
        except TimeoutError:
            _logger.warning("starting without the store: %s", self._problem())
        except Unavailable as error:
            if self._calls.refused:
                why = f"{self._address.shown} lets nobody in: {self._calls.problem}"
                await self.stop()
                raise Unavailable(why) from None
            _logger.warning("starting without the store: %s", error.detail)

    async def stop(self) -> None:
        self._owner = NO_OWNER
        await self._presence.leave()
        await self._holding.leave()
        await self._tasks.stop()

    def _linked(self, link: Link) -> None:
        self._presence.write_all()
        self._holding.write_all()
        if self._run_id != link.run_id:
            _warn_of(link.info)
        self._run_id = link.run_id
        self._check_one_server()

    def _check_one_server(self) -> None:
        """What one server says goes with what the same one answers: two may both take writes, while one takes over."""
        if not self._calls.problem and self._listener.run_id not in ("", self._run_id):
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
                    await self._copies.received_to.reached(last)
                self._probed_at = time.monotonic()
                self._lag_seconds = self._probed_at - began
            except TimeoutError:
                if generation == self._listener.generation and self._flowing.is_set():
                    self._listener.reset("what is published isn't heard")

    # What is heard

    def _heard(self, channel: bytes, data: bytes) -> None:
        try:
            if channel == self._notice_channel:
                self._notices.heard(data)
                return
            said = heard(data)
            topic = channel[len(self._names.channel_prefix) :].decode()
        except ValueError:
            if not self._is_disturbed:
                _logger.warning(
                    "somebody else publishes to our channels: %r was said on %r", data[:50], channel
                )
            self._is_disturbed = True
            return
        self._seen.note(said.last)
        if isinstance(said, Probe):
            self._copies.heard(said.last, said.epoch)
            return
        self._copies.arrived(topic, said)
        if said.last > self._copies.received_to.value:
            self._ask_for(said.last)

    def _ask_for(self, last: EventId) -> None:
        """A call for several topics may say its end where nobody listens here: then ask, lest readers wait for a probe."""
        if not self._asked_for:
            asyncio.get_running_loop().call_soon(self._ask)
        self._asked_for = max(self._asked_for, last)

    def _ask(self) -> None:
        last, self._asked_for = self._asked_for, 0
        if last > self._copies.received_to.value:
            self._tasks.spawn(self._hear_all())

    async def _hear_all(self) -> None:
        await self._filling.sync()

    def _delivered(self, topic: str, size: int) -> None:
        if not self._owner.delivered(topic, size):
            self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def _listening(self) -> None:
        self._check_one_server()
        self._probed_at = time.monotonic()
        for copy in self._copies:
            self._mend(copy)
        self._tasks.spawn(self._catch_up(self._listener.generation))

    def _disconnected(self) -> None:
        self._copies.disconnected()
        self._notices.disconnected()

    async def _catch_up(self, generation: int) -> None:
        while generation == self._listener.generation and self._listener.is_ready:
            try:
                await self._notices.catch_up()
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    def _mend(self, copy: TopicReplica) -> None:
        self._mended += copy.was_live
        self._filling.make_live(copy, copy.tail)

    # Publish and watch

    @property
    def born(self) -> EventId:
        return self._copies.facts.born

    @property
    def last_id(self) -> EventId:
        return self._seen.value

    @property
    def received_to(self) -> EventId:
        return self._copies.received_to.value

    @property
    def complete_to(self) -> EventId:
        return self._copies.complete_to.value

    def is_lost(self, cursor: EventId) -> bool:
        return self._copies.facts.is_lost(cursor)

    async def watch(self, topics: Sequence[str], start: Start) -> Sequence[Log]:
        return await self._watching.watch(topics, start)

    def unwatch(self, topics: Sequence[str]) -> None:
        self._watching.unwatch(topics)

    def trim(self, topic: str) -> None:
        copy = self._copies.get(topic)
        if copy is not None:
            self._logs.trim(topic, copy.log, self._clock())

    def sweep(self) -> None:
        self._logs.sweep(self._clock(), SWEEP_LEAST + len(self._logs) // SWEEP_SHARE)
        self._watching.sweep()
        self._notices.sweep()
        if not self._calls.problem:
            self._upkeep.sweep()

    # Look

    @property
    def stats(self) -> StoreStats:
        return StoreStats(
            log_bytes=self._logs.bytes,
            topics=len(self._copies),
            connected=not self._calls.problem and not self._listener.problem,
            connections=self._calls.connections + self._listener.generation,
            repairs=self._mended,
            lag_seconds=self._lag_seconds,
        )

    def checks(self) -> dict[str, str]:
        silent = time.monotonic() - self._probed_at > PROBE_SECONDS + 2 * DEAF_SECONDS
        disconnected = silent and self._flowing.is_set()
        listening = "nothing is heard of what is published" if disconnected else "ok"
        return {
            "store": self._calls.problem or self._writes.problem or "ok",
            "channels": self._listener.problem or listening,
            "notices": "ok" if self._notices.is_whole else "reading what was told to all",
            "copies": "ok" if self._copies.is_whole else "reading what was missed",
            "store tasks": "ok" if self._tasks.defect is None else "failed; restart this instance",
        }

    def _problem(self) -> str:
        return (
            self._calls.problem
            or self._writes.problem
            or self._listener.problem
            or "it doesn't answer in time"
        )


def _warn_of(info: Mapping[str, str]) -> None:
    """Say what of the server's configuration loses events."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _logger.warning(
            "the store's maxmemory-policy is %s: it will evict logs; set it to noeviction", policy
        )
    if info.get("aof_enabled") == "0":
        _logger.warning("the store has no append-only file: its restart loses events; set appendonly to yes")
