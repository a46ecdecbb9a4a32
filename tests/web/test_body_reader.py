"""Waits for bodies: their limits, interrupts, and the end of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.errors import Cancelled, InvalidBody, Overloaded, TooLarge, Unavailable
from broker.metrics import Metrics
from broker.web.body_reader import BodyReader, Interrupt
from tests.web.body_timeouts import timeouts
from tests.web.requests import Body


class Silent(Body):
    """A body of which nothing arrives."""

    def take(self) -> bytes | None:
        return None

    def listen(self, listener: Callable[[], None] | None) -> None:
        pass


def reader(metrics: Metrics | None = None, *, body: float = 60, idle: float = 60) -> BodyReader:
    return BodyReader(timeouts(metrics or Metrics(), body=body, pause=idle))


async def nothing(_piece: bytes) -> None:
    pass


def timed_out(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("broker_cut_requests_total", {"reason": reason})


async def test_a_whole_body() -> None:
    assert await reader().whole(Body(b"ab", b"c"), 3) == b"abc"


@pytest.mark.parametrize("body", [Body(b"ab", b"c"), Body(length=3)])
async def test_a_body_over_the_limit(body: Body) -> None:
    with pytest.raises(TooLarge):
        await reader().whole(body, 2)


async def test_a_slow_body_is_an_error_and_counted() -> None:
    metrics = Metrics()
    with pytest.raises(InvalidBody, match=r"0\.01 s"):
        await reader(metrics, body=0.01).whole(Silent(), 10)
    with pytest.raises(InvalidBody, match=r"0\.02 s"):
        await reader(metrics, idle=0.02).each_piece(Silent(), Interrupt(), nothing)
    assert (timed_out(metrics, "body"), timed_out(metrics, "pause")) == (1, 1)


async def test_an_interrupt_ends_the_wait_in_progress() -> None:
    interrupt = Interrupt()
    waiting = asyncio.ensure_future(reader().each_piece(Silent(), interrupt, nothing))
    await asyncio.sleep(0)
    interrupt.raise_(Cancelled("first"))
    interrupt.raise_(Cancelled("second"))
    with pytest.raises(Cancelled, match="first"):
        await waiting


async def test_an_interrupt_ends_the_next_wait() -> None:
    interrupt = Interrupt()
    interrupt.raise_(Cancelled("stop"))
    with pytest.raises(Cancelled):
        await reader().each_piece(Body(b"x"), interrupt, nothing)
    with pytest.raises(Cancelled):
        await reader().pause(60, interrupt)


async def test_stop_ends_all_waits_and_new_ones() -> None:
    metrics = Metrics()
    bodies = reader(metrics)
    waits = [
        asyncio.ensure_future(bodies.whole(Silent(), 10)),
        asyncio.ensure_future(bodies.each_piece(Silent(), Interrupt(), nothing)),
        asyncio.ensure_future(bodies.pause(60, Interrupt())),
    ]
    await asyncio.sleep(0)
    bodies.stop()
    for ended in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(ended, Unavailable)
    with pytest.raises(Unavailable):
        await bodies.whole(Body(b"x"), 10)
    assert timed_out(metrics, "body") is None


async def test_i4_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.web.body_reader.MAX_HELD_BYTES", 250)
    bodies = reader()

    class Begun(Silent):
        def take(self) -> bytes | None:
            return self._pieces.pop(0) if self._pieces else None

    held = [asyncio.ensure_future(bodies.whole(Begun(b"x" * 100), 1000)) for _ in range(2)]
    await asyncio.sleep(0)
    assert bodies.held_bytes == 200
    with pytest.raises(Overloaded):
        await bodies.whole(Begun(b"x" * 100), 1000)
    assert bodies.held_bytes == 200
    for waiting in held:
        waiting.cancel()
    await asyncio.wait(held)
    assert bodies.held_bytes == 0
    assert await bodies.whole(Body(b"x" * 200), 1000) == b"x" * 200
