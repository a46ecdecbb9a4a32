"""Connections that are no streams: each wait has its bound, and so has their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.web.connection_timeouts import SLICE_CUTS, ConnectionTimeouts, TimeoutReason


class Timer:
    """A loop's time, which only a test moves, and what was asked of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.delays: list[float] = []
        self._call: Callable[[], object] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self.delays.append(delay)
        self._call = call

    def call_soon(self, call: Callable[[], object]) -> None:
        self.call_later(0, call)

    def move(self, seconds: float) -> None:
        """Let time pass, and the timer be due."""
        self.now += seconds
        assert self._call is not None
        self._call()


class Far:
    """A connection; `why` it was cut."""

    def __init__(self) -> None:
        self.why: TimeoutReason | None = None

    def cut(self, why: TimeoutReason) -> None:
        assert self.why is None
        self.why = why


def waiting(room: int = 1000) -> tuple[ConnectionTimeouts, Timer, list[TimeoutReason]]:
    timer, cuts = Timer(), list[TimeoutReason]()
    made = ConnectionTimeouts(
        timer,  # type: ignore[arg-type]
        room=lambda: room,
        on_cut=cuts.append,
        head_seconds=10,
        idle_seconds=75,
        answer_seconds=30,
    )
    made.start()
    return made, timer, cuts


def opened(room: ConnectionTimeouts) -> Far:
    far = Far()
    room.opened(far)
    return far


def test_connection_that_never_sends_is_cut() -> None:
    room, timer, cuts = waiting()
    far = opened(room)
    timer.move(9.9)
    assert far.why is None
    timer.move(0.1)
    assert far.why is TimeoutReason.HEAD
    assert cuts == [TimeoutReason.HEAD]


def test_head_is_measured_from_its_first_byte() -> None:
    room, timer, _ = waiting()
    far = opened(room)
    timer.move(9)
    room.head_began(far)
    timer.move(9)
    assert far.why is None
    timer.move(1)
    assert far.why is TimeoutReason.HEAD


def test_who_has_asked_is_given_the_handlers_time() -> None:
    room, timer, cuts = waiting()
    room.request_came(opened(room))
    timer.move(1000)
    assert cuts == []


def test_answer_that_is_not_taken_and_then_the_next_request_that_does_not_come() -> None:
    room, timer, _ = waiting()
    stuck, idle = opened(room), opened(room)
    for far in (stuck, idle):
        room.request_came(far)
        room.answer_began(far)
    room.answered(idle)
    timer.move(30)
    assert (stuck.why, idle.why) == (TimeoutReason.ANSWER, None)
    timer.move(45)
    assert idle.why is TimeoutReason.IDLE


def test_next_head_on_a_kept_connection_is_measured_anew() -> None:
    room, timer, _ = waiting()
    far = opened(room)
    room.request_came(far)
    room.answer_began(far)
    room.answered(far)
    timer.move(70)
    room.head_began(far)
    timer.move(9.9)
    assert far.why is None
    timer.move(0.1)
    assert far.why is TimeoutReason.HEAD


def test_who_has_waited_longest_makes_room() -> None:
    room, timer, cuts = waiting(room=3)
    handled, kept, silent = opened(room), opened(room), opened(room)
    for far in (handled, kept):
        room.request_came(far)
    timer.move(1)
    room.answer_began(kept)
    room.answered(kept)
    timer.move(1)
    opened(room)
    assert (handled.why, kept.why, silent.why) == (None, None, TimeoutReason.ROOM), (
        "it came before the answer was taken"
    )
    room.closed(silent)
    opened(room)
    assert (handled.why, kept.why) == (None, TimeoutReason.ROOM)
    assert cuts == [TimeoutReason.ROOM, TimeoutReason.ROOM]


def test_where_all_are_being_answered_the_new_one_goes() -> None:
    room, _, _ = waiting(room=1)
    handled = opened(room)
    room.request_came(handled)
    assert opened(room).why is TimeoutReason.ROOM
    assert handled.why is None


def test_many_are_cut_in_slices() -> None:
    room, timer, cuts = waiting()
    for _ in range(3 * SLICE_CUTS):
        opened(room)
    timer.move(10)
    assert (len(cuts), timer.delays[-1]) == (SLICE_CUTS, 0)
    timer.move(0)
    timer.move(0)
    timer.move(0)
    assert len(cuts) == 3 * SLICE_CUTS
    assert timer.delays[-1] > 0


def test_nothing_is_left_of_who_has_gone() -> None:
    room, timer, cuts = waiting()
    steps = (room.head_began, room.request_came, room.answer_began, room.answered, room.head_began)
    for count in range(len(steps) + 1):
        far = opened(room)
        for step in steps[:count]:
            step(far)
        room.closed(far)
    assert room.count == 0
    timer.move(1000)
    assert cuts == []


async def test_the_timer_ends_with_the_broker() -> None:
    cuts: list[TimeoutReason] = []
    room = ConnectionTimeouts(
        asyncio.get_running_loop(),
        room=lambda: 1,
        on_cut=cuts.append,
        head_seconds=0.001,
        idle_seconds=1,
        answer_seconds=1,
    )
    room.start()
    room.stop()
    opened(room)
    await asyncio.sleep(0.01)
    assert cuts == []
