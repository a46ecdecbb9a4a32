"""One connection to a server: how it is opened, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from redis.asyncio.connection import AbstractConnection

from broker.stores.redis.address import Address, parse
from broker.stores.redis.link import LinkLost, open_link
from tests.stores.conftest import StartServer
from tests.stores.fake_server import StartFake, bulk, greet
from tests.support.redis_servers import Server


@dataclass
class LosesCancelling:
    """An address with a `connect` that swallows a cancellation, as redis-py may on Python 3.11."""

    real: Address
    shown: str = "here"
    database: int = 0
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> AbstractConnection:
        self.waits.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return await self.real.connect()
        raise AssertionError


async def test_a_cancelled_opening_ends_even_if_the_library_swallows_it(
    shared_server: Server,
) -> None:
    address = LosesCancelling(parse(shared_server.url))
    opening = asyncio.ensure_future(open_link(address))
    await address.waits.wait()
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():
        await opening.result().close()
    assert opening.cancelled()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$-1\r\n",
        b":5\r\n",
        b"*1\r\n$1\r\nx\r\n",
        bulk(b"role:master\r\n"),
        bulk(b"\xff\xfe"),
        bulk(b""),
    ],
)
async def test_a_server_that_is_not_redis_is_a_lost_link(start_fake: StartFake, answer: bytes) -> None:
    server = await start_fake(lambda command: answer if command[0] == b"INFO" else greet(command))
    with pytest.raises(LinkLost):
        await open_link(parse(server.url))


async def test_writing_to_a_lost_connection_does_no_harm(start_server: StartServer) -> None:
    server: Server = start_server()
    link = await open_link(parse(server.url))
    server.kill()
    with pytest.raises(LinkLost):
        await link.read(lambda _reply: None)
    link.abort()
    await asyncio.sleep(0.01)
    link.write(b"PING\r\n")
    await link.close()
