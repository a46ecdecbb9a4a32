"""Groups of brokers that share a store, each with the faults that can befall it.

Rules: a fault is a coroutine that does harm and undoes it: when it returns, all processes run again. Faults run at the same
time, but one process is disturbed by one fault at a time: that is what its lock is for. A fault that may lose events holds the
locks of all processes until all are ready again, since a loss is reported only if some instance knew the lost events.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from broker.events import EventId, parse_id
from tests.stores.chaos.ledger import Ledger, Loss
from tests.stores.chaos.processes import LoggedBroker
from tests.stores.chaos.servers import ChaosServer, append_only_size, cut_append_only_file

Fault = Callable[[], Awaitable[None]]
SETTINGS: dict[str, Any] = {
    "retry_min_ms": 0,
    "retry_max_ms": 100,
    "heartbeat_seconds": 1,
    "drain_seconds": 0.5,
}


class Busy(Exception):
    """What the fault would disturb is disturbed already, so it does nothing."""


INSTANCES = 2
PAUSE_SECONDS = (0.1, 3.0)
AWAY_SECONDS = (0.0, 1.0)
FSYNC_SECONDS = 1.0
CLOCK_STEPS = (-200.0, -5.0, -0.5, 0.5, 3.0, 5.0)
"""Steps ahead are shorter than `failover_margin_ms`, by which clocks may differ. Steps back, which end in a step ahead, are shorter
than `idempotency_seconds` and `retention_seconds`: a clock that skips such a time makes the server forget keys and events."""


@dataclass(frozen=True)
class Stage:
    """Where a group runs.

    Attributes:
        directory: for the servers' files.
        program: the server's program.
        ledger: the published, lost and deleted events.
        chance: decides when, where and for how long a fault occurs.
    """

    directory: Path
    program: str
    ledger: Ledger
    chance: random.Random


class Group:
    """Instances on one server.

    Args:
        settings: further ones of the instances.
    """

    def __init__(self, stage: Stage, **settings: object) -> None:
        self.ledger = stage.ledger
        self.chance = stage.chance
        self.server = ChaosServer(
            stage.directory / "s0",
            stage.program,
            "appendonly yes",
            "appendfsync no",
            "aof-load-truncated yes",
            tcp=True,
            own_disk=True,
        )
        self.instances: list[LoggedBroker] = []
        self._losing = asyncio.Lock()
        self._settings = {**SETTINGS, "retention_events": stage.ledger.retention_events, **settings}

    def ports(self) -> list[int]:
        return [instance.fixed_port for instance in self.instances]

    def faults(self) -> dict[str, tuple[Fault, float]]:
        """Each fault by name, and how often it occurs relative to the others."""
        return {
            "instance killed": (self.kill_instance, 3),
            "instance stopped": (self.drain_instance, 1),
            "instance paused": (self.pause_instance, 2),
            "connections killed: normal": (lambda: self.kill_connections("normal"), 3),
            "connections killed: pubsub": (lambda: self.kill_connections("pubsub"), 4),
            "scripts flushed": (self.flush_scripts, 1),
            "server killed": (self.kill_server, 1),
            "server paused": (self.pause_server, 1),
            "power cut": (self.cut_power, 1),
            "disk full": (self.fill_disk, 1),
            **({"clock moved": (self.move_clock, 1)} if self.server.has_clock else {}),
        }

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)
        await self.start_instances(self.server.tcp_url)

    async def start_instances(self, url: str) -> None:
        self.instances = [LoggedBroker(**self._settings, redis_url=url) for _ in range(INSTANCES)]
        await asyncio.gather(*(asyncio.to_thread(instance.start) for instance in self.instances))
        await self.until_ready()

    async def until_ready(self) -> None:
        await asyncio.gather(*(instance.until_ready() for instance in self.instances))

    async def stop(self) -> None:
        for instance in self.instances:
            instance.__exit__(None, None, None)
        self.server.close()

    def client(self, **options: Any) -> Redis:
        """A client of the server that has the events."""
        return self.server.client(**options)

    @property
    def server_lock(self) -> asyncio.Lock:
        return self.server.lock

    def locks(self) -> list[asyncio.Lock]:
        return [self.server.lock, *(instance.lock for instance in self.instances)]

    @contextlib.asynccontextmanager
    async def losing(self, **options: bool) -> AsyncIterator[Loss]:
        """Events may be lost meanwhile; nothing else is disturbed until all instances are ready again."""
        if self._losing.locked():
            raise Busy
        async with self._losing, contextlib.AsyncExitStack() as stack:
            for lock in self.locks():
                await stack.enter_async_context(lock)
            await self.until_ready()
            loss = Loss(monotonic(), **options)
            self.ledger.losses.append(loss)
            yield loss
            await self.until_ready()
            loss.ended_at = monotonic()

    @contextlib.asynccontextmanager
    async def disturbing(self, process: LoggedBroker | ChaosServer) -> AsyncIterator[None]:
        if process.lock.locked():
            raise Busy
        async with process.lock:
            yield

    async def wait(self, bounds: tuple[float, float]) -> None:
        await asyncio.sleep(self.chance.uniform(*bounds))

    async def restart(self, process: LoggedBroker | ChaosServer) -> None:
        """Kill it, and start it again after a while."""
        async with self.disturbing(process):
            await asyncio.to_thread(process.kill)
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(process.start)

    async def pause(self, process: LoggedBroker | ChaosServer) -> None:
        """Stop it for a while."""
        async with self.disturbing(process):
            process.pause()
            try:
                await self.wait(PAUSE_SECONDS)
            finally:
                process.resume()

    async def kill_instance(self) -> None:
        await self.restart(self.chance.choice(self.instances))

    async def drain_instance(self) -> None:
        instance = self.chance.choice(self.instances)
        async with self.disturbing(instance):
            status = await asyncio.to_thread(instance.terminate)
            if status != 0:
                self.ledger.fail(
                    f"an instance ended with status {status} at SIGTERM: {instance.output[-2000:]}"
                )
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(instance.start)

    async def pause_instance(self) -> None:
        await self.pause(self.chance.choice(self.instances))

    async def kill_connections(self, kind: str) -> None:
        if self.server_lock.locked():
            raise Busy
        await self.command(lambda client: client.client_kill_filter(_type=kind))

    async def flush_scripts(self) -> None:
        await self.command(lambda client: client.script_flush())

    async def command(self, send: Callable[[Any], object]) -> None:
        """Send a command to the server, unless it can't take one now."""

        def connect_and_send() -> None:
            with contextlib.suppress(RedisError), self.client(socket_timeout=2) as client:
                send(client)

        await asyncio.to_thread(connect_and_send)

    async def kill_server(self) -> None:
        """With `appendfsync no`, everything was written before it was answered, so nothing is lost."""
        await self.restart(self.server)

    async def pause_server(self) -> None:
        await self.pause(self.server)

    async def cut_power(self) -> None:
        """The server's machine loses power, and its file ends somewhere within the last second."""
        async with self.losing():
            async with self.cutting(self.server.directory):
                await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.start)

    @contextlib.asynccontextmanager
    async def cutting(self, directory: Path) -> AsyncIterator[None]:
        """The block ends the server of that directory. Its file then ends somewhere within the last second."""
        before = append_only_size(directory)
        await asyncio.sleep(FSYNC_SECONDS)
        yield
        await asyncio.to_thread(
            cut_append_only_file, directory, lambda size: self.chance.randint(0, max(0, size - before))
        )

    async def fill_disk(self) -> None:
        """The file system of the server's file is full for a while, so it refuses writes.

        If it has no file system of its own, its snapshot can't be written, with the same effect.
        """
        async with self.disturbing(self.server):
            server = self.server
            with server.full_disk() if server.has_disk else server.unwritable_snapshot():
                await self.wait(PAUSE_SECONDS)

    async def move_clock(self) -> None:
        """The clock of the running server steps, and back after a while."""
        async with self.disturbing(self.server):
            seconds = self.chance.choice(CLOCK_STEPS)
            self.server.move_clock(seconds)
            try:
                await self.wait(PAUSE_SECONDS)
            finally:
                self.server.move_clock(0)

    def stored_ids(self) -> set[EventId]:
        """The ids of all events that the server has."""
        with self.client() as client:
            keys = list(client.scan_iter(match="broker:*", count=1000, _type="stream"))
            found = [parse_id(event_id.decode()) for key in keys for event_id, _ in client.xrange(key)]
        return {event_id for event_id in found if event_id is not None}

    def defects(self) -> list[str]:
        return [found for instance in self.instances for found in instance.defects()]
