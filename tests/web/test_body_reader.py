"""Waits for bodies: their limits, interrupts, and the end of the application."""

from __future__ import annotations

import asyncio

import pytest

from broker.auth.grants import UNRESTRICTED_CALLER
from broker.errors import Cancelled, InvalidBody, Overloaded, TooLarge, Unavailable
from broker.metrics import Metrics
from broker.web.body_reader import BodyReader, Interrupt
from broker.web.values import Listener
from tests.support.waiting import until
from tests.web.body_timeouts import body_limits, timeouts
from tests.web.requests import Body


class Silent(Body):
    """A body of which nothing arrives."""

    def take(self) -> bytes | None:
        return None

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        pass


class Arriving(Body):
    """A body that arrives piece by piece; b"" is its end.

    Attributes:
        listener: is called for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listener: Listener | None = None

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        self.listener = listener

    def take(self) -> bytes | None:
        if not self._pieces:
            return None
        return self._pieces.pop(0) if self._pieces[0] else b""

    def arrive(self, *pieces: bytes) -> None:
        self._pieces += pieces
        if self.listener is not None:
            self.listener(None)


def reader(
    metrics: Metrics | None = None, *, body: float = 60, idle: float = 60, max_bytes: int = 1000
) -> BodyReader:
    metrics = metrics or Metrics()
    return BodyReader(timeouts(metrics, body=body, pause=idle), body_limits(metrics, max_bytes=max_bytes))


async def each_piece(bodies: BodyReader, body: Body, interrupt: Interrupt) -> list[bytes]:
    """The pieces of a streamed body."""
    user = Pieces()
    await bodies.each_piece(body, interrupt, user.use)
    return user.pieces


class Pieces:
    """Keeps the pieces of a body."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def use(self, piece: bytes) -> None:
        self.pieces.append(piece)


def timed_out(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("broker_cut_requests_total", {"reason": reason})


async def test_a_whole_body() -> None:
    assert await reader().whole(Body(b"ab", b"c"), UNRESTRICTED_CALLER, 3) == b"abc"


@pytest.mark.parametrize("body", [Body(b"ab", b"c"), Body(length=3)])
async def test_a_body_over_the_limit(body: Body) -> None:
    with pytest.raises(TooLarge):
        await reader().whole(body, UNRESTRICTED_CALLER, 2)


async def test_the_pieces_of_a_streamed_body() -> None:
    assert await each_piece(reader(), Body(b"ab", b"c"), Interrupt()) == [b"ab", b"c"]


async def test_pieces_that_arrive_are_used_within_the_call_that_brings_them() -> None:
    body, user, bodies = Arriving(), Pieces(), reader()
    reading = asyncio.ensure_future(bodies.each_piece(body, Interrupt(), user.use))
    await until(lambda: body.listener is not None, "it waits")
    body.arrive(b"a")
    body.arrive(b"b")
    assert user.pieces == [b"a", b"b"]
    body.arrive(b"c", b"")
    assert user.pieces == [b"a", b"b", b"c"]
    await reading


async def test_a_use_that_waits_goes_on_before_the_next_piece_is_used() -> None:
    class Waits(Pieces):
        async def use(self, piece: bytes) -> None:
            await super().use(piece)
            await gate.wait()

    gate, body, user, bodies = asyncio.Event(), Arriving(), Waits(), reader()
    reading = asyncio.ensure_future(bodies.each_piece(body, Interrupt(), user.use))
    await until(lambda: body.listener is not None, "it waits for the first piece")
    body.arrive(b"a")
    body.arrive(b"b")
    await until(lambda: body.listener is None, "the use of the first piece waits")
    assert user.pieces == [b"a"]
    gate.set()
    await until(lambda: body.listener is not None, "it waits for more")
    assert user.pieces == [b"a", b"b"]
    body.arrive(b"")
    await reading


async def test_an_error_of_a_use_ends_the_body() -> None:
    class Fails(Pieces):
        async def use(self, piece: bytes) -> None:
            await super().use(piece)
            raise InvalidBody("no")

    body, user, bodies = Arriving(), Fails(), reader()
    reading = asyncio.ensure_future(bodies.each_piece(body, Interrupt(), user.use))
    await until(lambda: body.listener is not None, "it waits")
    body.arrive(b"a")
    body.arrive(b"b")
    with pytest.raises(InvalidBody):
        await reading
    assert user.pieces == [b"a"]


async def test_a_slow_body_is_an_error_and_counted() -> None:
    metrics = Metrics()
    with pytest.raises(InvalidBody, match=r"0\.01 s"):
        await reader(metrics, body=0.01).whole(Silent(), UNRESTRICTED_CALLER, 10)
    with pytest.raises(InvalidBody, match=r"0\.02 s"):
        await each_piece(reader(metrics, idle=0.02), Silent(), Interrupt())
    assert (timed_out(metrics, "body"), timed_out(metrics, "pause")) == (1, 1)


async def test_an_interrupt_ends_the_wait_in_progress() -> None:
    interrupt = Interrupt()
    waiting = asyncio.ensure_future(each_piece(reader(), Silent(), interrupt))
    await asyncio.sleep(0)
    interrupt.raise_(Cancelled("first"))
    interrupt.raise_(Cancelled("second"))
    with pytest.raises(Cancelled, match="first"):
        await waiting


async def test_an_interrupt_ends_the_next_wait() -> None:
    interrupt = Interrupt()
    interrupt.raise_(Cancelled("stop"))
    with pytest.raises(Cancelled):
        await each_piece(reader(), Body(b"x"), interrupt)
    with pytest.raises(Cancelled):
        await reader().pause(60, interrupt)


async def test_stop_ends_all_waits_and_new_ones() -> None:
    metrics = Metrics()
    bodies = reader(metrics)
    waits = [
        asyncio.ensure_future(bodies.whole(Silent(), UNRESTRICTED_CALLER, 10)),
        asyncio.ensure_future(each_piece(bodies, Silent(), Interrupt())),
        asyncio.ensure_future(bodies.pause(60, Interrupt())),
    ]
    await asyncio.sleep(0)
    bodies.stop()
    for ended in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(ended, Unavailable)
    with pytest.raises(Unavailable):
        await bodies.whole(Body(b"x"), UNRESTRICTED_CALLER, 10)
    assert timed_out(metrics, "body") == 0


async def test_i4_all_bodies_together_are_bounded() -> None:
    bodies = reader(max_bytes=250)

    class Begun(Silent):
        def take(self) -> bytes | None:
            return self._pieces.pop(0) if self._pieces else None

    held = [
        asyncio.ensure_future(bodies.whole(Begun(b"x" * 100), UNRESTRICTED_CALLER, 1000)) for _ in range(2)
    ]
    await asyncio.sleep(0)
    assert bodies.limits.held_bytes == 200
    with pytest.raises(Overloaded):
        await bodies.whole(Begun(b"x" * 100), UNRESTRICTED_CALLER, 1000)
    assert bodies.limits.held_bytes == 200
    for waiting in held:
        waiting.cancel()
    await asyncio.wait(held)
    assert bodies.limits.held_bytes == 0
    assert await bodies.whole(Body(b"x" * 200), UNRESTRICTED_CALLER, 1000) == b"x" * 200
