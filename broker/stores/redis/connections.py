"""The connections of one store: for calls, for writes that wait for replicas, and for pub/sub.

Rules: pub/sub and calls must reach the same server; during a failover two may accept writes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from broker.stores.redis.address import Address
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.link import Link
from broker.stores.redis.names import Names
from broker.stores.redis.options import StoreOptions
from broker.stores.redis.pubsub import PubSubHandler, PubSubReader
from broker.stores.redis.script_pipeline import LinkObserver, ScriptPipeline
from broker.stores.redis.seen_file import SeenFile
from broker.stores.redis.task_owner import TaskOwner
from broker.stores.redis.watermark import Watermark
from broker.stores.stats import CallMeasures

_logger = logging.getLogger("broker")


class Connections:
    """Opens and watches one store's connections.

    Attributes:
        seen: the highest id that the store has returned.
        calls: for reads, and for writes that wait for no replicas.
        writes: for writes that wait for replicas, which blocks the connection; `calls` if none wait.
        measures: of both.
    """

    def __init__(self, address: Address, names: Names, options: StoreOptions, delivery: Delivery) -> None:
        self.measures = CallMeasures()
        self.seen = SeenFile(options.seen_directory) if options.seen_directory else Watermark()
        self.calls = self._make_pipeline(address, names, options, wait_replicas=0, observer=self)
        self.writes = (
            self._make_pipeline(address, names, options, wait_replicas=options.wait_replicas)
            if options.wait_replicas
            else self.calls
        )
        self.pubsub = PubSubReader(address, (names.probe_channel, names.broadcast_channel), delivery)
        self._run_id = ""  # of the server that `calls` leads to

    def _make_pipeline(
        self,
        address: Address,
        names: Names,
        options: StoreOptions,
        *,
        wait_replicas: int,
        observer: LinkObserver | None = None,
    ) -> ScriptPipeline:
        return ScriptPipeline(
            address,
            self.seen,
            self.measures,
            margin_ms=options.failover_margin_ms,
            topic_memory_ms=int(options.topic_memory_seconds * 1000),
            wait_replicas=wait_replicas,
            observer=observer,
            key=names.key("state"),
        )

    def start(self, handler: PubSubHandler, tasks: TaskOwner) -> None:
        for pipeline in dict.fromkeys((self.calls, self.writes)):
            tasks.spawn(pipeline.connector.run())
        tasks.spawn(self.pubsub.run(handler))

    async def wait_connected(self) -> None:
        """Wait for a connection. Raises `Unavailable` if the server refuses access."""
        await self.calls.connector.wait_connected()
        await self.writes.connector.wait_connected()

    @property
    def problem(self) -> str:
        """Why the server can't be used, without addresses; "" if it can."""
        return self.calls_problem or self.pubsub.problem

    @property
    def calls_problem(self) -> str:
        """Why no calls can be made; "" if they can."""
        return self.calls.connector.problem or self.writes.connector.problem

    @property
    def count(self) -> int:
        return self.calls.connector.connections + self.pubsub.generation

    def connected(self, link: Link) -> None:
        """`calls` has a new connection; see `LinkObserver`."""
        if self._run_id != link.run_id:
            _warn_of_losses(link.info)
        self._run_id = link.run_id
        self.check_same_server()

    def check_same_server(self) -> None:
        if not self.calls.connector.problem and self.pubsub.run_id not in ("", self._run_id):
            self.pubsub.reset("the store is another server now")


def _warn_of_losses(info: Mapping[str, str]) -> None:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _logger.warning(
            "the store's maxmemory-policy is %s: it will evict logs; set it to noeviction", policy
        )
    if info.get("aof_enabled") == "0":
        _logger.warning("the store has no append-only file: its restart loses events; set appendonly to yes")
    if info.get("cluster_enabled") == "1":  # this node has our slot, for now
        _logger.warning(
            "the store is a node of a Redis Cluster, which isn't supported: when its slots move, nothing can be published"
        )
