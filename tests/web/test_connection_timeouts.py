"""Request connections: each wait has a limit, and so has their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.metrics import Metrics
from broker.web.connection_timeouts import SLICE_TIMEOUTS, ConnectionTimeouts, TimeoutReason


class Timer:
    """A loop's time, which only a test moves, and its one timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.delays: list[float] = []
        self._due = 0.0
        self._call: Callable[[], object] | None = None

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self.delays.append(delay)
        self._due = self.now + delay
        self._call = call

    def call_soon(self, call: Callable[[], object]) -> None:
        self.call_later(0, call)

    def move(self, seconds: float) -> None:
        """Let `seconds` pass, with the timer whenever it is due, and then call it once more."""
        end = self.now + seconds
        while self._due < end:
            self.stall(self._due - self.now)
        self.stall(end - self.now)

    def stall(self, seconds: float) -> None:
        """Let `seconds` pass without the timer, and then call it."""
        self.now += seconds
        assert self._call is not None
        self._call()


class Connection:
    """A connection, and the reason for which it timed out."""

    reader: str | None = None

    def __init__(self) -> None:
        self.reason: TimeoutReason | None = None

    def time_out(self, reason: TimeoutReason) -> None:
        assert self.reason is None
        self.reason = reason


class Bench:
    """`ConnectionTimeouts` with limits of 10 s for a head, 75 s between requests and 30 s for an answer."""

    def __init__(self, max_descriptors: int = 1000, streams: int = 0) -> None:
        self.timer = Timer()
        self.metrics = Metrics()
        self.timeouts = ConnectionTimeouts(
            self.timer,  # type: ignore[arg-type]
            range(streams),
            self.metrics,
            max_descriptors=max_descriptors,
            head_seconds=10,
            idle_seconds=75,
            answer_seconds=30,
            body_seconds=60,
            pause_seconds=0,
        )
        self.timeouts.start()

    def open(self) -> Connection:
        connection = Connection()
        self.timeouts.opened(connection)
        return connection

    def count(self, reason: TimeoutReason) -> int:
        """How many connections have timed out for this reason."""
        value = self.metrics.registry.get_sample_value("broker_cut_requests_total", {"reason": reason})
        return int(value or 0)

    def counts(self) -> dict[TimeoutReason, int]:
        """The same for each reason that occurred."""
        return {reason: self.count(reason) for reason in TimeoutReason if self.count(reason)}


def test_a_connection_that_sends_nothing_times_out() -> None:
    bench = Bench()
    connection = bench.open()
    bench.timer.move(9.9)
    assert connection.reason is None
    bench.timer.move(0.1)
    assert connection.reason is TimeoutReason.HEAD
    assert bench.counts() == {TimeoutReason.HEAD: 1}


def test_the_limit_of_a_head_begins_with_its_first_byte() -> None:
    bench = Bench()
    connection = bench.open()
    bench.timer.move(9)
    bench.timeouts.head_started(connection)
    bench.timer.move(9)
    assert connection.reason is None
    bench.timer.move(1)
    assert connection.reason is TimeoutReason.HEAD


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """What a client sent meanwhile lies whole in the socket, and is read after the timer has run."""
    bench = Bench()
    begun, idle, stuck = bench.open(), bench.open(), bench.open()
    bench.timeouts.head_started(begun)
    bench.timeouts.answer_sent(idle)
    bench.timeouts.answer_started(stuck)
    bench.timer.stall(1000)
    assert bench.counts() == {}
    bench.timer.move(8)
    assert bench.counts() == {}
    bench.timer.move(2)
    assert bench.counts() == {TimeoutReason.HEAD: 2}, "both that are in the middle of a head, or before it"


def test_no_limit_while_the_handler_runs() -> None:
    bench = Bench()
    bench.timeouts.head_complete(bench.open())
    bench.timer.move(1000)
    assert bench.counts() == {}


def test_an_answer_that_is_not_read_and_then_a_next_request_that_does_not_come() -> None:
    bench = Bench()
    stuck, idle = bench.open(), bench.open()
    for connection in (stuck, idle):
        bench.timeouts.head_complete(connection)
        bench.timeouts.answer_started(connection)
    bench.timeouts.answer_sent(idle)
    bench.timer.move(30)
    assert (stuck.reason, idle.reason) == (TimeoutReason.ANSWER, None)
    bench.timer.move(45)
    assert idle.reason is TimeoutReason.IDLE


def test_the_next_head_on_a_kept_connection_has_a_limit_of_its_own() -> None:
    bench = Bench()
    connection = bench.open()
    bench.timeouts.head_complete(connection)
    bench.timeouts.answer_started(connection)
    bench.timeouts.answer_sent(connection)
    bench.timer.move(70)
    bench.timeouts.head_started(connection)
    bench.timer.move(9.9)
    assert connection.reason is None
    bench.timer.move(0.1)
    assert connection.reason is TimeoutReason.HEAD


def test_the_connection_that_has_waited_longest_makes_room() -> None:
    bench = Bench(max_descriptors=3)
    handled, kept, silent = bench.open(), bench.open(), bench.open()
    for connection in (handled, kept):
        bench.timeouts.head_complete(connection)
    bench.timer.move(1)
    bench.timeouts.answer_started(kept)
    bench.timeouts.answer_sent(kept)
    bench.timer.move(1)
    bench.open()
    assert (handled.reason, kept.reason, silent.reason) == (None, None, TimeoutReason.ROOM), (
        "it was opened before the answer was sent"
    )
    bench.timeouts.closed(silent)
    bench.open()
    assert (handled.reason, kept.reason) == (None, TimeoutReason.ROOM)
    assert bench.counts() == {TimeoutReason.ROOM: 2}


def test_if_all_others_are_being_answered_the_new_connection_makes_room() -> None:
    bench = Bench(max_descriptors=1)
    handled = bench.open()
    bench.timeouts.head_complete(handled)
    assert bench.open().reason is TimeoutReason.ROOM
    assert handled.reason is None


def test_streams_take_descriptors_too() -> None:
    bench = Bench(max_descriptors=3, streams=2)
    first = bench.open()
    assert first.reason is None
    bench.open()
    assert first.reason is TimeoutReason.ROOM


def test_many_connections_time_out_in_slices() -> None:
    bench = Bench()
    for _ in range(3 * SLICE_TIMEOUTS):
        bench.open()
    bench.timer.move(10)
    assert bench.count(TimeoutReason.HEAD) == SLICE_TIMEOUTS
    assert bench.timer.delays[-1] == 0
    bench.timer.move(0)
    bench.timer.move(0)
    bench.timer.move(0)
    assert bench.count(TimeoutReason.HEAD) == 3 * SLICE_TIMEOUTS
    assert bench.timer.delays[-1] > 0


def test_a_last_answer_is_not_waited_for_when_there_is_no_room() -> None:
    """A body that makes room is answered; if its connection stayed, descriptors would run out."""
    bench = Bench(max_descriptors=1)
    connection, body = bench.open(), Connection()
    bench.timeouts.head_complete(connection)
    bench.timeouts.body_awaited(body)
    bench.timer.now += 1
    other = bench.open()
    assert (body.reason, other.reason) == (TimeoutReason.ROOM, None)
    last = Connection()
    bench.timeouts.replaced(connection, last, is_sent=True)
    assert last.reason is TimeoutReason.ROOM
    bench.timeouts.closed(last)
    last = Connection()
    bench.timeouts.replaced(other, last, is_sent=True)
    assert last.reason is None, "now there is room"


def test_nothing_is_kept_of_a_closed_connection() -> None:
    bench = Bench()
    timeouts = bench.timeouts
    steps = (
        timeouts.head_started,
        timeouts.head_complete,
        timeouts.answer_started,
        timeouts.answer_sent,
        timeouts.head_started,
    )
    for count in range(len(steps) + 1):
        connection = bench.open()
        for step in steps[:count]:
            step(connection)
        timeouts.closed(connection)
    assert timeouts.count == 0
    bench.timer.move(1000)
    assert bench.counts() == {}


async def test_the_timer_stops() -> None:
    connection = Connection()
    timeouts = ConnectionTimeouts(
        asyncio.get_running_loop(),
        (),
        Metrics(),
        max_descriptors=1,
        head_seconds=0.001,
        idle_seconds=1,
        answer_seconds=1,
        body_seconds=1,
        pause_seconds=0,
    )
    timeouts.start()
    timeouts.stop()
    timeouts.opened(connection)
    await asyncio.sleep(0.01)
    assert connection.reason is None
