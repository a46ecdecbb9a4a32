"""One connection, with what its transport and the kernel still hold."""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker import sse
from broker.auth.grants import UNRESTRICTED_CALLER
from broker.fanout.close_reason import CloseReason
from broker.fanout.feed import PIECE_BYTES
from broker.fanout.subscriber import Subscriber
from tests.support.hub_harness import HubHarness, reset, tcp_pair
from tests.support.waiting import WAIT_SECONDS


async def until_the_kernel_holds_bytes(harness: HubHarness) -> Subscriber:
    """A subscriber that reads just so much that the kernel takes everything, and still holds some of it."""
    subscriber = await harness.subscribe("a")
    decode = harness.chunks[subscriber].feed
    while subscriber.lag is None:
        harness.publish("a", b"x" * 4000)
        harness.run()
    async with asyncio.timeout(WAIT_SECONDS):
        while subscriber.lag is not None:
            decode(harness.receive(subscriber, 1000))
            harness.run()
            await asyncio.sleep(0)
    assert not subscriber.is_acknowledged()
    return subscriber


async def test_i4_a_subscriber_that_does_not_read_costs_one_piece(harness: HubHarness) -> None:
    stuck = await harness.subscribe("a")
    good = await harness.subscribe("a")
    seen: list[int] = []
    for _ in range(100):
        harness.publish("a", b"x" * 10_000)
        seen += await harness.read_all(good, harness.last)
    assert seen == list(range(1, 101))
    assert stuck.lag is not None
    assert good.lag is None
    assert 0 < stuck._transport.get_write_buffer_size() <= PIECE_BYTES


async def test_the_last_bytes_come_after_those_in_the_transports_buffer(harness: HubHarness) -> None:
    harness.publish("a", b"x" * 100_000)
    subscriber = await harness.subscribe("a", cursor=0)
    data = harness.read(subscriber)  # so that the socket has room again, and the transport doesn't know
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            data += harness.read(subscriber)
            harness.hub.sweep()
            await asyncio.sleep(0)
    data += harness.read(subscriber)
    assert data == sse.frame(sse.lines(b"x" * 100_000), 1) + sse.retry(1)


async def test_i4_a_cut_connection_is_reset_so_that_the_kernel_keeps_nothing_for_it(
    harness: HubHarness,
) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.cut(subscriber, CloseReason.SLOW)
    await harness.closing()
    with pytest.raises(ConnectionResetError):
        harness.read(subscriber)


async def test_a_peer_that_is_gone_already_counts_as_left_not_as_drained(harness: HubHarness) -> None:
    subscriber = await harness.subscribe("a")
    reset(harness.far[subscriber])
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def test_a_peer_that_is_gone_before_the_end_of_its_topic_is_written_is_no_defect(
    harness: HubHarness,
) -> None:
    harness.close("a")
    subscriber = await harness.subscribe("a", cursor=0, is_gone=True)
    assert subscriber.feed is None
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def test_a_connection_whose_peer_has_left_stays_while_the_kernel_holds_bytes_for_it(
    harness: HubHarness,
) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    async with asyncio.timeout(WAIT_SECONDS):
        while subscriber.feed is not None:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(harness.hub) == 1
    harness.read(subscriber)
    harness.hub.sweep()
    await harness.closing()
    assert harness.closes == [CloseReason.CLIENT]


async def test_a_connection_whose_peer_leaves_with_everything_closes_at_once(harness: HubHarness) -> None:
    """Though it was being finished, and its acknowledgement was not yet seen."""
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.finish(subscriber, CloseReason.DRAINING)
    assert len(harness.hub) == 1
    harness.read(subscriber)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    await harness.closing()
    assert harness.closes == [CloseReason.DRAINING]


async def test_a_connection_whose_peer_has_left_without_reading_is_closed_once_stuck(
    harness: HubHarness,
) -> None:
    for _ in range(20):
        harness.publish("a", b"x" * 10_000)
    subscriber = await harness.subscribe("a", cursor=0)
    harness.far[subscriber].shutdown(socket.SHUT_WR)
    async with asyncio.timeout(WAIT_SECONDS):
        while subscriber.feed is not None:
            await asyncio.sleep(0)
    assert len(harness.hub) == 1  # it still counts: the kernel holds bytes for it
    harness.hub.sweep()
    harness.now += 31
    harness.hub.sweep()
    async with asyncio.timeout(WAIT_SECONDS):
        while not harness.closes:
            await asyncio.sleep(0)
    assert harness.closes == [CloseReason.CLIENT]


async def test_a_stream_ends_once(harness: HubHarness) -> None:
    subscriber = await until_the_kernel_holds_bytes(harness)
    harness.hub.finish(subscriber, CloseReason.DRAINING, sse.retry(1))
    harness.hub.finish(subscriber, CloseReason.EXPIRED, sse.retry(2))
    data = harness.read(subscriber)
    harness.hub.sweep()
    await harness.closing()
    assert (data + harness.read(subscriber)).endswith(b"\n\nretry: 1\n")
    assert harness.closes == [CloseReason.DRAINING]


class Owner:
    """Records why connections were lost."""

    def __init__(self) -> None:
        self.reasons: list[CloseReason] = []

    def flushed(self, subscriber: Subscriber) -> None:
        """Nothing is written here."""

    def left(self, subscriber: Subscriber) -> None:
        """No peer leaves here."""

    def cut(self, subscriber: Subscriber, reason: CloseReason) -> None:
        """No peer talks here."""

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
async def test_a_connection_that_times_out_has_a_close_reason_of_its_own(
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
    async with asyncio.timeout(WAIT_SECONDS):
        while len(owner.reasons) < 2:
            await asyncio.sleep(0)
