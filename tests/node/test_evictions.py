"""Streams end a little before their token does, each at another moment."""

from __future__ import annotations

from asyncio import BaseProtocol, TimerHandle, Transport
from collections.abc import Callable, Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from broker.auth.grants import UNRESTRICTED_CALLER
from broker.fanout.subscriber import Subscriber, SubscriberOwner
from broker.node.evictions import EARLY_MAX_SECONDS, Expiries

BEGIN = 1_000_000.0


class Timer:
    """What `call_later` gives back."""

    def __init__(self, at: float, run: Callable[[], object]) -> None:
        self.at = at
        self.run = run
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Unconnected(Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__({"sslcontext": True})

    def set_protocol(self, protocol: BaseProtocol) -> None: ...


class Harness:
    """Expiries in a time that the test moves; reported streams are recorded."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.timers: list[Timer] = []
        self.gone: dict[object, float] = {}
        self.expiries = Expiries(self, lambda: self.now, self)

    def call_later(self, delay: float, run: Callable[[], object], /) -> TimerHandle:
        self.timers.append(Timer(self.now + delay, run))
        return cast("TimerHandle", self.timers[-1])

    def expired(self, subscribers: Sequence[Subscriber]) -> None:
        self.gone |= dict.fromkeys(subscribers, self.now)

    def add(self, seconds: float) -> Subscriber:
        subscriber = Subscriber(Unconnected(), cast("SubscriberOwner", None), UNRESTRICTED_CALLER, 0, BEGIN)
        self.expiries.add(subscriber, BEGIN + seconds)
        return subscriber

    def run(self, seconds: float) -> None:
        """Let time pass: a sweep each second, and what the timers ask for between."""
        end, sweep_at = self.now + seconds, self.now + 1
        while self.now < end:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            timer = min(self.timers, key=lambda timer: timer.at, default=None)
            if timer is not None and timer.at <= sweep_at:
                self.timers.remove(timer)
                self.now = max(self.now, timer.at)
                timer.run()
            else:
                self.now, sweep_at = sweep_at, sweep_at + 1
                self.expiries.sweep()


@given(st.lists(st.floats(0.5, 60), min_size=1, max_size=20))
def test_each_stream_ends_before_its_token_expires_by_at_most_a_tenth(seconds: list[float]) -> None:
    harness = Harness()
    lives = {harness.add(life): life for life in seconds}
    harness.run(62)
    assert harness.gone.keys() == lives.keys()
    for subscriber, life in lives.items():
        assert 0.9 * life - 1e-3 <= harness.gone[subscriber] - BEGIN <= life
    assert len(harness.expiries) == 0
    assert not [timer for timer in harness.timers if not timer.cancelled], "nothing is left to look for"


def test_streams_of_tokens_with_the_same_expiry_are_spread() -> None:
    harness = Harness()
    for _ in range(500):
        harness.add(100)
    harness.run(100)
    moments = sorted(harness.gone.values())
    assert moments[-1] - moments[0] > 5
    assert len({round(moment, 1) for moment in moments}) > 40


def test_a_token_for_a_month_is_not_cut_by_days() -> None:
    harness = Harness()
    month = 30 * 86_400
    subscriber = harness.add(month)
    harness.now = BEGIN + month - EARLY_MAX_SECONDS - 1
    harness.expiries.sweep()
    assert subscriber not in harness.gone
    harness.run(EARLY_MAX_SECONDS + 1)
    assert harness.gone[subscriber] <= BEGIN + month


def test_a_closed_stream_is_forgotten() -> None:
    harness = Harness()
    subscriber = harness.add(10)
    harness.expiries.remove(subscriber)
    harness.expiries.remove(subscriber)
    assert len(harness.expiries) == 0
    harness.run(20)
    assert not harness.gone


def test_an_expired_token_ends_its_stream_at_once() -> None:
    harness = Harness()
    subscriber = harness.add(-5)
    harness.expiries.sweep()
    assert subscriber in harness.gone


def test_a_clock_that_is_set_forward_ends_them_at_the_next_sweep() -> None:
    harness = Harness()
    subscriber = harness.add(3600)
    harness.now += 3600
    harness.expiries.sweep()
    assert subscriber in harness.gone


def test_no_timer_remains_after_the_stop() -> None:
    harness = Harness()
    harness.add(0.5)
    harness.expiries.stop()
    assert all(timer.cancelled for timer in harness.timers)
