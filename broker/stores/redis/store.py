"""The store in a Redis or Valkey server, shared by all instances that are given the same one (design §2, §4).

Rules: joins the parts of this package to a `stores.base.Store`; owns its tasks.

A script appends events to the topic's stream and publishes them on the topic's channel, in one step. An instance subscribes
to the channels of the topics that it watches, and keeps a replica of each topic's log. It reads the streams to fill and to
repair replicas.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from broker.errors import Unavailable
from broker.events import Clock
from broker.log.table import LogTable
from broker.stores.base import StoreOwner
from broker.stores.redis.address import Address
from broker.stores.redis.broadcast import RedisBroadcast
from broker.stores.redis.catch_up import CatchUp
from broker.stores.redis.commands import Commands
from broker.stores.redis.connections import Connections
from broker.stores.redis.counters import RedisCounters
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.housekeeping import Housekeeping
from broker.stores.redis.names import Names
from broker.stores.redis.options import StoreOptions
from broker.stores.redis.receiver import Receiver
from broker.stores.redis.replicas import Replicas
from broker.stores.redis.scripts import Scripts, load
from broker.stores.redis.server_memory import ServerMemory
from broker.stores.redis.task_owner import TaskOwner
from broker.stores.redis.watches import Watches
from broker.stores.stats import StoreStats
from broker.topics import RetentionRules

START_SECONDS = 5.0

_logger = logging.getLogger("broker")


class RedisStore:
    """Implements `stores.base.Store`. Needs a running loop.

    Args:
        clock: of this instance; ids come from the server's.
    """

    def __init__(
        self,
        address: Address,
        retention: RetentionRules,
        options: StoreOptions,
        *,
        clock: Clock,
        scripts: Scripts | None = None,
    ) -> None:
        self.name = f"redis at {address.shown}"
        self._address = address
        self._names = Names(options.prefix, address.database, secrets.token_hex(4))
        self._scripts = scripts or load()
        self._tasks = TaskOwner()
        self._delivery = Delivery()
        self._connections = Connections(address, self._names, options, self._delivery)
        self._subscribers = RedisCounters(self._names, self._connections.calls, "subs")
        self.counters = RedisCounters(self._names, self._connections.calls, "held")
        self.broadcast = RedisBroadcast(
            self._names, self._scripts.broadcast, self._connections.calls, clock, self._delivery
        )
        self.topics = Commands(
            self._names, self._scripts, retention, options, self._connections, self._subscribers, clock
        )
        self._memory = ServerMemory(self._connections.calls)
        self._housekeeping = Housekeeping(self.topics, self._memory, self._tasks)
        self._make_replicas(retention, options, clock)

    def _make_replicas(self, retention: RetentionRules, options: StoreOptions, clock: Clock) -> None:
        logs = LogTable(
            0,
            retention,
            max_bytes=options.max_log_bytes,
            max_topics=options.max_topics,
            topic_memory_seconds=options.topic_memory_seconds,
        )
        self._log_table = logs
        self._replicas = Replicas(logs, clock, self._delivery)
        self._catch_up = CatchUp(
            self._names,
            self._scripts.read,
            self._connections,
            self._replicas,
            retention,
            self._delivery,
            self._tasks,
        )
        self.logs = Watches(
            self._names,
            self._connections,
            logs,
            self._replicas,
            self._catch_up,
            self._subscribers,
            self._delivery,
            clock,
        )
        self._receiver = Receiver(
            self._names,
            self._connections,
            self._replicas,
            self._catch_up,
            self.broadcast,
            self._delivery,
            self._tasks,
        )

    async def start(self, owner: StoreOwner) -> None:
        """See `stores.base.Store`. If the server can't be reached in time, starts without it; the instance isn't ready then."""
        self._delivery.start(owner)
        self._connections.start(self._receiver, self._tasks)
        for task in (self._subscribers.run(), self.counters.run(), self._receiver.probe()):
            self._tasks.spawn(task)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._connections.wait_connected()
                await self._catch_up.sync()
        except TimeoutError:
            _logger.warning(
                "starting without the store: %s", self._connections.problem or "it doesn't answer"
            )
        except Unavailable as error:
            if self._connections.calls.connector.refused:
                reason = self._connections.calls.connector.failure
                await self.stop()
                raise Unavailable(f"{self._address.shown} {reason}") from None
            _logger.warning("starting without the store: %s", error.detail)

    async def stop(self) -> None:
        self._delivery.stop()
        await self._subscribers.leave()
        await self.counters.leave()
        await self._tasks.stop()

    def sweep(self) -> None:
        self.logs.sweep()
        self.broadcast.sweep()
        if not self._connections.calls.connector.problem:
            self._housekeeping.sweep()

    @property
    def stats(self) -> StoreStats:
        return StoreStats(
            log_bytes=self._log_table.bytes,
            log_limit_bytes=self._log_table.max_bytes,
            topics=len(self._replicas),
            connected=not (self._connections.calls.connector.problem or self._connections.pubsub.problem),
            connections=self._connections.count,
            repairs=self._receiver.repairs,
            lag_seconds=self._receiver.lag_seconds,
            memory_bytes=self._memory.used,
            memory_limit_bytes=self._memory.limit,
            calls=self._connections.measures,
        )

    def checks(self) -> dict[str, str]:
        return {
            "store": self._connections.calls_problem or "ok",
            "channels": self._receiver.problem or "ok",
            "notices": "ok" if self.broadcast.is_complete else "reading the kept broadcasts",
            "copies": "ok" if self._replicas.are_complete else "reading missed events",
            "store tasks": "ok" if self._tasks.defect is None else "failed; restart this instance",
        }
