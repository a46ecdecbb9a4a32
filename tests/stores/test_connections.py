"""The connections of a store together: which there are, and that all reach the same server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from broker.stores.redis.address import parse
from broker.stores.redis.connections import Connections
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.names import Names
from broker.stores.redis.task_owner import TaskOwner
from tests.stores.conftest import StartServer
from tests.support.redis_proxy import RedisProxy
from tests.support.redis_servers import Server
from tests.support.store_harness import OPTIONS
from tests.support.waiting import until


class Handler:
    """Counts what the pub/sub connection reports."""

    def __init__(self) -> None:
        self.subscriptions = 0

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Nothing is published."""

    def subscribed(self) -> None:
        self.subscriptions += 1

    def disconnected(self) -> None:
        """`subscribed` follows."""


Start = Callable[..., Awaitable[Connections]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts the connections to a URL."""
    owners: list[TaskOwner] = []

    async def start(url: str, *, wait_replicas: int = 0) -> Connections:
        options = replace(OPTIONS, wait_replicas=wait_replicas)
        address = parse(url)
        names = Names(options.prefix, address.database, "test")
        connections = Connections(address, names, options, Delivery())
        owners.append(TaskOwner())
        connections.start(Handler(), owners[-1])
        await connections.wait_connected()
        await until(lambda: not connections.problem, "it is connected")
        return connections

    yield start
    for owner in owners:
        await owner.stop()
        assert owner.defect is None


async def test_writes_that_wait_for_replicas_have_a_connection_of_their_own(
    start: Start, empty_server: Server
) -> None:
    """WAIT blocks its connection, which must not hold up reads."""
    plain = await start(empty_server.url)
    assert plain.writes is plain.calls
    waiting = await start(empty_server.url, wait_replicas=1)
    assert waiting.writes is not waiting.calls
    with empty_server.client() as client:
        ours = [one for one in client.client_list() if one["id"] != str(client.client_id())]
    assert len(ours) == 2 + 3


async def test_i2_pubsub_follows_the_calls_to_another_server(start: Start, start_server: StartServer) -> None:
    """During a failover two servers may accept writes."""
    one, other = start_server(), start_server()
    async with RedisProxy(one) as proxy:
        connections = await start(proxy.url)
        before = connections.pubsub.run_id
        assert connections.calls._link is not None
        proxy.lead_to(other)
        connections.calls._link.abort("a test")
        await until(lambda: connections.pubsub.run_id not in ("", before), "pub/sub has followed")
        await until(lambda: not connections.problem, "all are connected")
        assert connections.calls._link is not None
        assert connections.pubsub.run_id == connections.calls._link.run_id


async def test_a_problem_of_any_connection_is_reported(start: Start, start_server: StartServer) -> None:
    server = start_server()
    async with RedisProxy(server) as proxy:
        connections = await start(proxy.url, wait_replicas=1)
        assert (connections.calls_problem, connections.count) == ("", 2)
        proxy.close()
        await until(lambda: connections.calls_problem and connections.pubsub.problem, "all are lost")
        assert connections.problem == connections.calls_problem
        proxy.open()
        await until(lambda: not connections.problem, "they are back")
        assert connections.count >= 4
