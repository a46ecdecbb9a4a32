"""One connection to a server: what may happen while it is opened."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from redis.asyncio.connection import AbstractConnection

from broker.stores.redis.address import Address, parse
from broker.stores.redis.link import open_link
from tests.support.redis_servers import Server


@dataclass
class LosesCancelling:
    """An address whose `connect` loses that its task was cancelled, as redis-py's may on Python 3.11."""

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
