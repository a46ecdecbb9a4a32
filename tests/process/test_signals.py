"""The queue of signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from broker.process.signals import SignalQueue, may_catch_sighup
from tests.support.waiting import WAIT_SECONDS

TERMINATIONS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restores the handlers of this process."""
    before = {number: signal.getsignal(number) for number in (*TERMINATIONS, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_signals_arrive_in_order(handlers: None) -> None:
    signals = SignalQueue(sighup=True)
    sent = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]
    for number in sent:
        signal.raise_signal(number)
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_SECONDS):
        assert [await signals.next() for _ in sent] == sent


@pytest.mark.parametrize("number", TERMINATIONS)
async def test_sighup_is_no_termination(handlers: None, number: signal.Signals) -> None:
    signals = SignalQueue(sighup=True)
    for received in (signal.SIGHUP, signal.SIGHUP, number):
        signal.raise_signal(received)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await signals.next_termination() is number


async def test_sighup_is_left_alone_unless_asked_for(handlers: None) -> None:
    before = signal.getsignal(signal.SIGHUP)
    SignalQueue(sighup=False)
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.parametrize(("handler", "may"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_an_ignored_sighup_is_not_caught(handlers: None, handler: signal.Handlers, may: bool) -> None:
    signal.signal(signal.SIGHUP, handler)
    assert may_catch_sighup() is may
