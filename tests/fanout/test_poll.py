"""A long poll in the hub: woken by deliveries, answered once, and ended as streams are."""

from __future__ import annotations

import asyncio

import pytest

from broker.auth.grants import UNRESTRICTED_CALLER
from broker.fanout.close_reason import CloseReason
from broker.fanout.fanout import WRITES_PER_TURN
from broker.fanout.feed import FeedKey
from broker.fanout.poll import Poll
from tests.support.hub_harness import HubHarness, tcp_pair
from tests.support.waiting import until


class Waiting:
    """A poll of a harness, and the requests to it.

    Attributes:
        gives: the answer to a wake; None while there is nothing to give.
        asked: the reason of each call.
        held, may_hold: how many bytes the poll's transport has, and may have.
    """

    def __init__(self, gives: bytes | None = b"events") -> None:
        self.gives = gives
        self.asked: list[CloseReason | None] = []
        self.held = 0
        self.may_hold = 1 << 30
        self.poll: Poll

    async def attach(self, harness: HubHarness, *topics: str) -> Waiting:
        near, far = tcp_pair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
        transport.set_write_buffer_limits(high=0)
        key = FeedKey(topics, enveloped=False, chunked=True)
        logs = [harness.log(topic) for topic in topics]
        self.poll = harness.hub.attach_poll(transport, UNRESTRICTED_CALLER, key, logs, harness.last, self)
        harness.far[self.poll] = far
        return self

    def respond(self, reason: CloseReason | None) -> bytes | None:
        self.asked.append(reason)
        return self.gives if reason is None else b"nothing"

    def hold(self, size: int) -> bool:
        self.held = size
        return size <= self.may_hold

    def release(self) -> None:
        self.held = 0


async def test_the_first_event_is_answered_and_no_other(harness: HubHarness) -> None:
    waiting = await Waiting().attach(harness, "a")
    harness.publish("b", b"x")
    harness.run()
    assert waiting.asked == []
    for _ in range(3):
        harness.publish("a", b"x")
        harness.run()
    assert harness.read(waiting.poll) == b"events"
    assert waiting.asked == [None]
    assert harness.released == ["a"]
    harness.far[waiting.poll].close()
    await harness.closing()
    assert harness.closes == [CloseReason.ANSWERED]
    assert len(harness.hub) == 0


async def test_a_poll_shares_the_feed_of_streams(harness: HubHarness) -> None:
    stream = await harness.subscribe("a")
    await Waiting().attach(harness, "a")
    assert len(harness.hub.feeds) == 1
    harness.publish("a", b"x")
    harness.run()
    assert harness.read(stream).startswith(b"data: x\n")


async def test_i9_many_polls_are_answered_in_turns_that_cost_no_more_than_those_of_streams(
    harness: HubHarness,
) -> None:
    each_turn = WRITES_PER_TURN // Poll.WRITES
    waiting = [await Waiting().attach(harness, "a") for _ in range(2 * each_turn + 1)]
    harness.publish("a", b"x")
    answered = []
    while harness.turn():
        answered.append(sum(len(one.asked) for one in waiting))
    assert answered[:3] == [each_turn, 2 * each_turn, len(waiting)]


async def turns_of_a_pass(harness: HubHarness) -> int:
    harness.publish("a", b"x")
    turns = 0
    while harness.hub.feeds.backlog:
        assert harness.turn()
        turns += 1
    return turns


async def test_a_poll_slows_the_streams_of_its_topic_by_its_own_cost_alone(harness: HubHarness) -> None:
    for _ in range(2 * WRITES_PER_TURN - Poll.WRITES):
        await harness.subscribe("a")
    assert await turns_of_a_pass(harness) == 2
    waiting = await Waiting().attach(harness, "a")
    assert await turns_of_a_pass(harness) == 2, "with it, the pass takes as many writes as two turns have"
    assert waiting.asked == [None]


async def test_a_poll_that_has_left_costs_nothing(harness: HubHarness) -> None:
    for _ in range(2 * WRITES_PER_TURN):
        await harness.subscribe("a")
    answered, cut = [await Waiting().attach(harness, "a") for _ in range(2)]
    harness.hub.cut(cut.poll, CloseReason.CLIENT)
    assert await turns_of_a_pass(harness) == 3
    assert answered.asked == [None]
    assert await turns_of_a_pass(harness) == 2


async def test_an_event_and_the_end_in_one_turn(harness: HubHarness) -> None:
    waiting = await Waiting().attach(harness, "a")
    harness.publish("a", b"x")
    harness.close("a")
    harness.run()
    assert harness.read(waiting.poll) == b"events"
    assert waiting.asked == [None]
    assert harness.released == ["a"]
    assert harness.hub.failure is None


async def test_the_end_of_one_topic_of_several_is_nothing_to_give(harness: HubHarness) -> None:
    waiting = await Waiting(None).attach(harness, "a", "b")
    harness.close("a")
    harness.run()
    assert harness.read(waiting.poll) == b""
    assert waiting.poll.feed is not None
    harness.close("b")
    harness.run()
    assert harness.read(waiting.poll) == b"nothing"
    assert waiting.asked == [None, None, CloseReason.ENDED]
    assert sorted(harness.released) == ["a", "b"]


@pytest.mark.parametrize("reason", [CloseReason.DRAINING, CloseReason.EXPIRED, CloseReason.DISCONNECTED])
async def test_what_ends_a_stream_ends_a_poll(harness: HubHarness, reason: CloseReason) -> None:
    waiting = await Waiting().attach(harness, "a")
    harness.hub.finish(waiting.poll, reason, b"retry: 1\n")
    harness.hub.finish(waiting.poll, reason, b"retry: 1\n")
    harness.publish("a", b"x")
    harness.run()
    assert harness.read(waiting.poll) == b"nothing"
    assert waiting.asked == [reason]


async def test_it_gets_neither_heartbeats_nor_control_events(harness: HubHarness) -> None:
    waiting = await Waiting(None).attach(harness, "a")
    harness.hub.send_control(waiting.poll, b"event: broker.cancel\ndata: {}\n\n")
    harness.now += 100
    harness.hub.sweep()
    harness.run()
    assert harness.read(waiting.poll) == b""
    assert waiting.poll.feed is not None


async def test_a_client_that_does_not_read_its_answer_is_cut(harness: HubHarness) -> None:
    await Waiting(b"x" * (4 << 20)).attach(harness, "a")
    harness.publish("a", b"x")
    harness.run()
    for _ in range(2):
        harness.hub.sweep()
        harness.run()
        harness.now += 31
    harness.hub.sweep()
    await harness.closing()
    assert harness.released == ["a"]
    assert len(harness.hub) == 0


async def test_a_client_that_has_left_is_answered_without_harm(harness: HubHarness) -> None:
    waiting = await Waiting().attach(harness, "a")
    harness.far[waiting.poll].close()
    harness.publish("a", b"x")
    harness.run()
    await harness.closing()
    assert harness.released == ["a"]
    assert harness.hub.failure is None


async def test_what_its_transport_has_of_the_answer_is_counted_until_it_is_gone(harness: HubHarness) -> None:
    waiting = await Waiting(b"x" * (4 << 20)).attach(harness, "a")
    harness.publish("a", b"x")
    harness.run()
    assert 0 < waiting.held == waiting.poll._transport.get_write_buffer_size()

    def is_released() -> bool:
        harness.read(waiting.poll)
        return waiting.held == 0

    await until(is_released, "the rest is in the kernel's buffer")
    harness.far[waiting.poll].close()
    await harness.closing()


async def test_a_lost_poll_holds_nothing(harness: HubHarness) -> None:
    waiting = await Waiting(b"x" * (4 << 20)).attach(harness, "a")
    harness.publish("a", b"x")
    harness.run()
    assert waiting.held
    harness.hub.cut(waiting.poll, CloseReason.SLOW)
    await harness.closing()
    assert waiting.held == 0


async def test_a_poll_whose_answer_has_no_room_is_cut(harness: HubHarness) -> None:
    waiting = await Waiting(b"x" * (4 << 20)).attach(harness, "a")
    waiting.may_hold = 1000
    harness.publish("a", b"x")
    harness.run()
    await harness.closing()
    assert harness.closes == [CloseReason.SLOW]
    assert harness.released == ["a"]
    assert waiting.held == 0
    assert harness.hub.failure is None


async def test_a_client_that_takes_a_little_now_and_then_is_cut_too(harness: HubHarness) -> None:
    """Otherwise a few such clients could hold all the room for answers for as long as they like."""
    waiting = await Waiting(b"x" * (4 << 20)).attach(harness, "a")
    harness.publish("a", b"x")
    harness.run()
    for _ in range(4):
        harness.hub.sweep()
        harness.run()
        assert len(harness.hub) == 1
        harness.now += 8
        assert harness.receive(waiting.poll, 100_000)
        await asyncio.sleep(0)
    harness.hub.sweep()
    await harness.closing()
    assert len(harness.hub) == 0
