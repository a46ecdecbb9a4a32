"""Passes pub/sub payloads on to the replicas and the broadcast, and checks every second that they do arrive.

Rules: decides when something was missed, and has it read: after each new connection, after a hole, after a lost probe.
"""

from __future__ import annotations

import asyncio
import logging
import time

from broker.errors import Unavailable
from broker.events import EventId
from broker.stores.redis.broadcast import RedisBroadcast
from broker.stores.redis.catch_up import CatchUp
from broker.stores.redis.connections import Connections
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import Probe, decode_payload
from broker.stores.redis.names import Names
from broker.stores.redis.page_reader import RETRY_SECONDS
from broker.stores.redis.replica import TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.task_owner import TaskOwner

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 2.0

_logger = logging.getLogger("broker")


class Receiver:
    """The handler of the pub/sub connection (`PubSubHandler`).

    Attributes:
        repairs: how often a readable replica was read again.
        lag_seconds: from the last probe's call to its receipt.
    """

    def __init__(
        self,
        names: Names,
        connections: Connections,
        replicas: Replicas,
        catch_up: CatchUp,
        broadcast: RedisBroadcast,
        delivery: Delivery,
        tasks: TaskOwner,
    ) -> None:
        self.repairs = 0
        self.lag_seconds = 0.0
        self._connections = connections
        self._pubsub = connections.pubsub
        self._seen = connections.seen
        self._replicas = replicas
        self._catch_up = catch_up
        self._broadcast = broadcast
        self._flowing = delivery.flowing
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._broadcast_channel = names.broadcast_channel.encode()
        self._prefix_length = len(names.channel_prefix)
        self._probed_at = 0.0
        self._sync_to: EventId = 0  # the highest id for which `_sync_now` is scheduled
        self._has_warned = False

    # For the pub/sub connection: `PubSubHandler`

    def receive(self, channel: bytes, payload: bytes) -> None:
        try:
            if channel == self._broadcast_channel:
                self._broadcast.receive(payload)
                return
            update = decode_payload(payload)
            topic = channel[self._prefix_length :].decode()
        except ValueError:
            if not self._has_warned:
                _logger.warning("someone else publishes to our channels: %r on %r", payload[:50], channel)
            self._has_warned = True
            return
        last = update.last
        if last > self._seen.value:
            self._seen.raise_to(last)
        if isinstance(update, Probe):
            self._replicas.received(last, update.epoch)
            return
        interrupted = self._replicas.receive(topic, update)
        if interrupted is not None:
            self._repair(interrupted)
        if last > self._replicas.received_to.value:
            self._schedule_sync(last)

    def subscribed(self) -> None:
        self._connections.check_same_server()
        self._probed_at = time.monotonic()
        for replica in self._replicas:
            self._repair(replica)
        self._tasks.spawn(self._read_broadcasts(self._pubsub.generation))
        # A probe that the previous connection didn't deliver would hold up streams of several topics until its time-out.
        self._tasks.spawn(self._sync())

    def disconnected(self) -> None:
        self._replicas.disconnected()
        self._broadcast.disconnected()

    def _repair(self, replica: TopicReplica) -> None:
        self.repairs += replica.is_readable
        self._catch_up.make_live(replica)

    async def _read_broadcasts(self, generation: int) -> None:
        while generation == self._pubsub.generation and self._pubsub.is_ready:
            try:
                await self._broadcast.read_kept()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _schedule_sync(self, last: EventId) -> None:
        """Sync unless `last` is announced by the next loop turn.

        A call for several topics announces it on its last topic's channel, to which this instance may not be subscribed.
        """
        if not self._sync_to:
            self._loop.call_soon(self._sync_now)
        self._sync_to = max(self._sync_to, last)

    def _sync_now(self) -> None:
        last, self._sync_to = self._sync_to, 0
        if last > self._replicas.received_to.value:
            self._tasks.spawn(self._sync())

    async def _sync(self) -> None:
        await self._catch_up.sync()

    # Probes

    async def probe(self) -> None:
        """Every second, publish a probe and wait for it on the channel; until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._flowing.wait()
            if not self._pubsub.is_ready:
                continue
            generation, began = self._pubsub.generation, time.monotonic()
            try:
                last = await self._catch_up.sync()
            except Unavailable:
                continue
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                    await self._replicas.received_to.reached(last)
                self._probed_at = time.monotonic()
                self.lag_seconds = self._probed_at - began
            except TimeoutError:
                if generation == self._pubsub.generation and self._flowing.is_set():
                    self._pubsub.reset("published events don't arrive")

    @property
    def problem(self) -> str:
        """Why payloads may not arrive; "" if they do."""
        silent_seconds = time.monotonic() - self._probed_at
        if silent_seconds > PROBE_SECONDS + 2 * PROBE_TIMEOUT_SECONDS and self._flowing.is_set():
            return self._pubsub.problem or "published events don't arrive"
        return self._pubsub.problem
