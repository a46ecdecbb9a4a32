"""Instances on a primary and its replica, which change their roles.

Rules: a failover may lose events, since a replica is behind by a moment. With `wait_replicas`, or by an order that waits for the
replica, it may not lose acknowledged ones. After each failover, the fault waits until the old primary follows the new one, so that
the next failover finds a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.stores.chaos.groups import AWAY_SECONDS, Fault, Group, Stage
from tests.stores.chaos.processes import LoggedBroker, poll
from tests.stores.chaos.servers import ChaosServer
from tests.support.redis_servers import LOOPBACK, Sentinel

SYNC_SECONDS = 240
PROMOTION_SECONDS = 30
DOWN_MS = 4000
"""After how long Sentinel takes a server for dead. On a busy machine, a shorter time brings failovers that no fault asked for."""
UNFIT = ("power cut", "server killed", "server paused", "disk full")
"""Faults of a single server. Sentinel would answer the first three with a failover. After a full disk, a Valkey 9.1.2 that had been a
replica could not load its append-only file again ("Bad file format")."""


class PairGroup(Group):
    """Two servers.

    Args:
        wait_replicas: whether a publish waits for the replica.
    """

    def __init__(self, stage: Stage, *, wait_replicas: bool = False) -> None:
        super().__init__(stage, redis_wait_replicas=int(wait_replicas))
        self.wait_replicas = wait_replicas
        self.replica = ChaosServer(stage.directory / "s1", stage.program, tcp=True, replica_of=self.server)

    def faults(self) -> dict[str, tuple[Fault, float]]:
        inherited = {name: fault for name, fault in super().faults().items() if name not in UNFIT}
        return {
            **inherited,
            "replica killed": (self.kill_replica, 1),
            "replica paused": (self.pause_replica, 1),
        }

    def locks(self) -> list[asyncio.Lock]:
        return [*super().locks(), self.replica.lock]

    async def start_servers(self) -> None:
        await asyncio.to_thread(self.server.start)
        await asyncio.to_thread(self.replica.start)
        await self.until_followed()

    async def stop(self) -> None:
        await super().stop()
        self.replica.close()

    async def kill_replica(self) -> None:
        await self.restart(self.replica)

    async def pause_replica(self) -> None:
        await self.pause(self.replica)

    @contextlib.asynccontextmanager
    async def disturbing(self, process: LoggedBroker | ChaosServer) -> AsyncIterator[None]:
        async with super().disturbing(process):
            yield
            if process is self.replica:
                await self.until_followed()

    async def swap(self) -> None:
        """The servers have changed their roles; wait until the new replica has everything."""
        self.server, self.replica = self.replica, self.server
        await self.until_followed()

    async def until_followed(self) -> None:
        """Wait until the replica has everything. Other faults cut its links meanwhile."""
        await poll(self.follows, "the replica follows the primary", SYNC_SECONDS)

    def follows(self) -> bool:
        """Whether the replica has everything that the primary has."""
        info = replication(self.replica)
        return (
            info.get("role") == "slave"
            and info.get("master_link_status") == "up"
            and not info.get("master_sync_in_progress")
            and int(info["master_port"]) == self.server.port
        )


class SentinelGroup(PairGroup):
    """Instances that ask a Sentinel for the primary."""

    def __init__(self, stage: Stage, *, wait_replicas: bool = False) -> None:
        super().__init__(stage, wait_replicas=wait_replicas)
        self.sentinel = Sentinel(stage.directory / "sentinel", stage.program, self.server, down_ms=DOWN_MS)

    def faults(self) -> dict[str, tuple[Fault, float]]:
        return {
            **super().faults(),
            "failover: the primary is killed": (self.kill_primary, 1),
            "failover: Sentinel's order": (self.order, 1),
        }

    async def start(self) -> None:
        await self.start_servers()
        await asyncio.to_thread(self.sentinel.start)
        await asyncio.to_thread(self.sentinel.wait_for_replica)
        await self.start_instances(f"redis+sentinel://{LOOPBACK}:{self.sentinel.port}/{self.sentinel.name}/0")

    async def stop(self) -> None:
        await super().stop()
        self.sentinel.__exit__(None, None, None)

    async def kill_primary(self) -> None:
        """Sentinel promotes the replica, and the old primary comes back as its replica."""
        async with self.losing(spares_acknowledged=self.wait_replicas):
            old = self.server
            await asyncio.to_thread(old.kill)
            await self._wait_for_promotion()
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(old.start)
            await self._find_roles()

    async def order(self) -> None:
        """Sentinel is ordered to fail over at once, with the old primary alive."""
        async with self.losing(spares_acknowledged=self.wait_replicas):
            await asyncio.to_thread(self._order_sentinel)
            await self._wait_for_promotion()
            await self._find_roles()

    def _order_sentinel(self) -> None:
        with Redis(host=LOOPBACK, port=self.sentinel.port, protocol=2, socket_timeout=5) as client:
            client.execute_command("SENTINEL", "FAILOVER", self.sentinel.name)

    async def _wait_for_promotion(self) -> None:
        """Wait until Sentinel has promoted the replica. On a busy machine it may wait for longer than a fault should last."""
        replica = self.replica

        def is_promoted() -> bool:
            return (
                replication(replica).get("role") == "master" and self.sentinel.source_port() == replica.port
            )

        with contextlib.suppress(AssertionError):
            await poll(is_promoted, "Sentinel promotes the replica", PROMOTION_SECONDS)

    async def _find_roles(self) -> None:
        """Both servers run: wait until Sentinel has a primary with a replica."""

        def have_roles() -> bool:
            named = self.sentinel.source_port()
            if named != self.server.port:
                self.server, self.replica = self.replica, self.server
            return replication(self.server).get("role") == "master" and self.follows()

        await poll(have_roles, "one server is the primary, the other its replica", SYNC_SECONDS)


def replication(server: ChaosServer) -> dict[str, Any]:
    """What a server says of its role; empty if it is away for a moment."""
    try:
        with server.client() as client:
            return dict(client.info("replication"))
    except RedisError:
        return {}
