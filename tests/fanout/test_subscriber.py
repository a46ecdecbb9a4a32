"""One subscriber: what it tells its owner of the end of its connection."""

from __future__ import annotations

import asyncio

import pytest

from broker.auth.grants import UNRESTRICTED_CALLER
from broker.fanout.subscriber import CloseReason, Subscriber
from tests.support.hub_harness import tcp_pair


class Owner:
    """Notes why connections were lost."""

    def __init__(self) -> None:
        self.reasons: list[CloseReason] = []

    def flushed(self, subscriber: Subscriber) -> None:
        """Nothing is written here."""

    def left(self, subscriber: Subscriber) -> None:
        """Nobody leaves by itself here."""

    def lost(self, subscriber: Subscriber, reason: CloseReason) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, CloseReason.CLIENT),
        (ConnectionResetError(), CloseReason.CLIENT),
        (TimeoutError(), CloseReason.TIMEOUT),
    ],
)
async def test_a_connection_lost_to_a_time_out_is_told_from_one_that_was_closed(
    error: Exception | None, reason: CloseReason
) -> None:
    near, far = tcp_pair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
    owner = Owner()
    subscriber = Subscriber(transport, owner, UNRESTRICTED_CALLER, 0, 0.0)
    subscriber.connection_lost(error)
    assert owner.reasons == [reason]
    transport.abort()
    far.close()
    async with asyncio.timeout(10):
        while len(owner.reasons) < 2:
            await asyncio.sleep(0)
