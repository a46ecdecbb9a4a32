"""Instances with one address, which an operator moves between a primary and its replica."""

from __future__ import annotations

import asyncio

from tests.stores.chaos.groups import AWAY_SECONDS, PAUSE_SECONDS, Fault, Stage
from tests.stores.chaos.processes import poll
from tests.stores.chaos.replicated import SYNC_SECONDS, PairGroup, replication
from tests.stores.chaos.servers import ChaosServer
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import LOOPBACK


class OrderedGroup(PairGroup):
    """Instances with one address, which an operator moves from one server to the other."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.proxy = RedisProxy(self.server)

    def faults(self) -> dict[str, tuple[Fault, float]]:
        return {
            **super().faults(),
            "failover: REPLICAOF": (self.promote, 1),
            "failover: FAILOVER": (self.hand_over, 1),
            "network cut": (self.cut_network, 1),
        }

    async def start(self) -> None:
        await self.start_servers()
        await self.proxy.__aenter__()
        await self.start_instances(self.proxy.url)

    async def stop(self) -> None:
        await self.proxy.__aexit__(None, None, None)
        await super().stop()

    async def promote(self) -> None:
        """The replica is promoted without a word to the primary, which goes on for a moment; then the address moves."""
        async with self.losing():
            await asyncio.to_thread(order, self.replica, "REPLICAOF", "NO", "ONE")
            await self.wait(AWAY_SECONDS)
            self.proxy.redirect(self.replica)
            await asyncio.to_thread(order, self.server, "REPLICAOF", LOOPBACK, self.replica.port)
            await self._swap_for_good()

    async def hand_over(self) -> None:
        """The primary stops writes, waits for its replica, and changes places with it; then the address moves."""
        async with self.losing(spares_acknowledged=True):
            await asyncio.to_thread(order, self.server, "FAILOVER", "TO", LOOPBACK, self.replica.port)
            replica = self.replica
            await poll(
                lambda: replication(replica).get("role") == "master",
                "the replica has taken over",
                SYNC_SECONDS,
            )
            await self.wait(AWAY_SECONDS)
            self.proxy.redirect(replica)
            await self._swap_for_good()

    async def _swap_for_good(self) -> None:
        await self.swap()
        for server in (self.server, self.replica):  # so that a restart keeps the role
            await asyncio.to_thread(order, server, "CONFIG", "REWRITE")

    async def cut_network(self) -> None:
        """No instance reaches the server for a while."""
        async with self.disturbing(self.server):
            self.proxy.close()
            await self.wait(PAUSE_SECONDS)
            self.proxy.open()


def order(server: ChaosServer, *command: str | int) -> None:
    with server.client() as client:
        client.execute_command(*command)
