"""Instances on a primary and its replica, with a Sentinel that leads to whichever is the primary.

Rules: a failover may lose events, since a replica is behind by a moment. With `wait_replicas` it may not lose acknowledged ones.
After each failover, the fault waits until the old primary follows the new one, so that the next failover finds a replica.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.stores.chaos.groups import AWAY_SECONDS, Fault, Group
from tests.stores.chaos.ledger import Ledger
from tests.stores.chaos.servers import ChaosServer
from tests.support.redis_servers import LOOPBACK, Sentinel
from tests.support.waiting import until

SYNC_SECONDS = 60


def _replication(server: ChaosServer) -> dict[str, Any]:
    """What a server says of its role; empty if it is away for a moment."""
    try:
        with server.client() as client:
            return dict(client.info("replication"))
    except RedisError:
        return {}


class ReplicatedGroup(Group):
    """Instances that find their server by Sentinel.

    Args:
        wait_replicas: whether a publish waits for the replica.
    """

    def __init__(
        self,
        directory: Path,
        program: str,
        ledger: Ledger,
        chance: random.Random,
        *,
        instances: int = 2,
        wait_replicas: bool = False,
    ) -> None:
        self._wait_replicas = wait_replicas
        self._free_ports_known = False
        self.sentinel: Sentinel | None = None
        self._directory = directory
        self._program = program
        super().__init__(
            directory, program, ledger, chance, instances=instances, redis_wait_replicas=int(wait_replicas)
        )
        self.replica = ChaosServer(directory / "s1", program, tcp=True, replica_of=self.server)

    @property
    def url(self) -> str:
        self.sentinel = self.sentinel or Sentinel(self._directory / "sentinel", self._program, self.server)
        return f"redis+sentinel://{LOOPBACK}:{self.sentinel.port}/main/0"

    def faults(self) -> dict[str, tuple[Fault, float]]:
        return {
            **{
                name: fault
                for name, fault in super().faults().items()
                if name not in ("power cut", "server killed", "server paused")
            },
            "failover: primary killed": (self.kill_primary, 1),
            "failover: by Sentinel's order": (lambda: self.order("sentinel"), 1),
            "replica killed": (self.kill_replica, 1),
            "replica paused": (self.pause_replica, 1),
        }

    def locks(self) -> list[asyncio.Lock]:
        return [*super().locks(), self.replica.lock]

    async def start(self) -> None:
        assert self.sentinel is not None
        await asyncio.to_thread(self.server.start)
        await asyncio.to_thread(self.replica.start)
        await asyncio.to_thread(self.replica.wait_synced)
        await asyncio.to_thread(self.sentinel.start)
        await asyncio.to_thread(self.sentinel.wait_for_replica)
        await self.start_instances()

    def stop(self) -> None:
        super().stop()
        self.replica.close()
        if self.sentinel is not None:
            self.sentinel.__exit__(None, None, None)

    async def kill_primary(self) -> None:
        """The primary is killed, Sentinel promotes the replica, and the old primary comes back as its replica."""
        async with self.losing(spares_acknowledged=self._wait_replicas):
            old = self.server
            await asyncio.to_thread(old.kill)
            await self._until_primary(self.replica)
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(old.start)
            await self._swap()

    async def order(self, kind: str) -> None:
        """A failover without a dead server: the primary is told to hand over, or Sentinel promotes at once."""
        async with self.losing(spares_acknowledged=self._wait_replicas):
            if kind == "sentinel":
                await asyncio.to_thread(self._tell_sentinel)
            else:
                await self.command(
                    lambda client: client.execute_command(
                        "FAILOVER", "TO", LOOPBACK, self.replica.port, "TIMEOUT", 2000
                    )
                )
            await self._until_primary(self.replica, asked_by=kind)
            await self._swap()

    async def kill_replica(self) -> None:
        async with self.disturbing(self.replica):
            await asyncio.to_thread(self.replica.kill)
            await self.wait(AWAY_SECONDS)
            await asyncio.to_thread(self.replica.start)
            await self._until_followed()

    async def pause_replica(self) -> None:
        async with self.disturbing(self.replica):
            self.replica.pause()
            try:
                await self.wait(AWAY_SECONDS)
            finally:
                self.replica.resume()
            await self._until_followed()

    def _tell_sentinel(self) -> None:
        assert self.sentinel is not None
        with Redis(host=LOOPBACK, port=self.sentinel.port, protocol=2) as client:
            client.execute_command("SENTINEL", "FAILOVER", self.sentinel.name)

    async def _until_primary(self, server: ChaosServer, asked_by: str = "") -> None:
        """Wait until Sentinel names this server, and it takes writes."""
        assert self.sentinel is not None
        sentinel = self.sentinel

        def is_primary() -> bool:
            return _replication(server).get("role") == "master" and sentinel.source_port() == server.port

        await until(is_primary, f"the replica is the primary ({asked_by or 'by Sentinel'})", SYNC_SECONDS)

    async def _swap(self) -> None:
        """The servers have changed roles; wait until the new replica has everything."""
        self.server, self.replica = self.replica, self.server
        await self._until_followed()

    async def _until_followed(self) -> None:
        """Wait until the replica has everything. Its links are cut by other faults meanwhile."""

        def follows() -> bool:
            info = _replication(self.replica)
            return (
                info.get("role") == "slave"
                and info.get("master_link_status") == "up"
                and not info.get("master_sync_in_progress")
                and int(info["master_port"]) == self.server.port
            )

        await until(follows, "the replica follows the primary", SYNC_SECONDS)
