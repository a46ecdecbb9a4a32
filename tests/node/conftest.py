"""A node with a store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.auth.grants import UNRESTRICTED_CALLER, Caller
from broker.log.start import Latest
from broker.metrics import Metrics
from broker.node.node import Node
from broker.node.streams import StreamPolicy
from broker.stores.memory import MemoryStore
from broker.topics import Retention, RetentionRules
from tests.support.hub_harness import tcp_pair
from tests.support.local_broker import Clock
from tests.support.waiting import WAIT_SECONDS

POLICY = StreamPolicy(
    max_connections=2,
    heartbeat_seconds=15,
    slow_seconds=30,
    retry_min_ms=2000,
    retry_max_ms=5000,
    drain_notice_seconds=0,
    drain_seconds=1,
    max_age_seconds=0,
    revocation_seconds=60,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def node(clock: Clock) -> AsyncIterator[Node]:
    """A node that has started; its store is `node._store`."""
    store = MemoryStore(
        RetentionRules(Retention(100, 1 << 20, 3600)),
        clock=clock,
        max_log_bytes=1 << 20,
        max_topics=100,
        topic_memory_seconds=3600,
        idempotency_seconds=300,
        max_key_bytes=10_000,
    )
    started = Node(store, POLICY, Metrics(), clock)
    await started.start()
    yield started
    await started.stop()
    async with asyncio.timeout(WAIT_SECONDS):
        while len(started.streams):
            await asyncio.sleep(0)


class Client:
    """The far end of a stream of topic `a`."""

    def __init__(self, far: socket.socket) -> None:
        self.far = far

    def read(self) -> bytes:
        """All that has arrived since the last call."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := self.far.recv(1 << 16):
                data += more
        return data


OpenStream = Callable[..., Awaitable[Client]]
"""Opens a stream of topic `a` for a caller; its first bytes are read already."""


@pytest.fixture
async def open_stream(node: Node) -> AsyncIterator[OpenStream]:
    clients: list[Client] = []

    async def open_one(caller: Caller = UNRESTRICTED_CALLER) -> Client:
        near, far = tcp_pair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
        transport.set_write_buffer_limits(high=0)
        await node.limits.enter(caller)
        logs = await node.logs.watch(["a"], Latest())
        node.streams.attach(transport, caller, b"", ["a"], logs, Latest(), enveloped=False, chunked=False)
        clients.append(Client(far))
        assert b"event: broker.open" in clients[-1].read()
        return clients[-1]

    yield open_one
    for client in clients:
        client.far.close()
