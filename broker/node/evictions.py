"""Ends streams that may no longer stay: the token expires, is revoked or loses its key, or an operator disconnects them.

Rules: decides which streams end, with which last event. Their owner ends them.

A stream ends a little before its token expires, each at another moment, and never after it. Otherwise all users who
logged in at nine with a token for an hour would reconnect at ten sharp. Expiry follows a clock that may be set, so it
is compared about once a second; a timer covers only the last second.
"""

from __future__ import annotations

import itertools
import random
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from typing import Protocol

from sortedcontainers import SortedDict

from broker import sse
from broker.auth.grants import FULL_ACCESS, Grant
from broker.auth.revocations import Revocations
from broker.errors import DenialReason, Unauthorized
from broker.events import Clock
from broker.fanout.batches import BatchRunner, Job
from broker.fanout.close_reason import CloseReason
from broker.fanout.subscriber import Subscriber
from broker.node.commands import Disconnect, Revoke
from broker.node.passes import Passes, StreamOwner

EARLY = (0.01, 0.1)
"""The part of a token's remaining time by which its stream may end early."""
EARLY_MAX_SECONDS = 10.0
SWEEP_SECONDS = 1.0
MIN_WAIT_SECONDS = 0.01


class Timers(Protocol):
    """The part of an event loop that sets timers."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> TimerHandle: ...


class ExpiryOwner(Protocol):
    """Ends streams before their token expires."""

    def expired(self, subscribers: Sequence[Subscriber]) -> None: ...


class Expiries:
    """When streams end because their tokens expire.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, owner: ExpiryOwner, clock: Clock, timers: Timers) -> None:
        self._owner = owner
        self._clock = clock
        self._timers = timers
        self._due: SortedDict[tuple[float, int], Subscriber] = SortedDict()
        self._keys: dict[Subscriber, tuple[float, int]] = {}
        self._numbers = itertools.count()
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, subscriber: Subscriber, until: float) -> None:
        """Report `subscriber` as expired a little before `until`, in seconds since 1970."""
        left = max(0.0, until - self._clock())
        early = min(left * random.uniform(*EARLY), random.uniform(0.0, EARLY_MAX_SECONDS))
        key = (until - early, next(self._numbers))
        self._keys[subscriber] = key
        self._due[key] = subscriber
        if self._due.keys()[0] == key:
            self._set_timer()

    def remove(self, subscriber: Subscriber) -> None:
        """The stream has ended. Harmless if it was never added."""
        key = self._keys.pop(subscriber, None)
        if key is not None:
            self._due.pop(key, None)

    def sweep(self) -> None:
        """Report the streams that are due; called about once a second."""
        now = self._clock()
        expired = []
        while self._due and self._due.keys()[0][0] <= now:
            _, subscriber = self._due.popitem(0)
            del self._keys[subscriber]
            expired.append(subscriber)
        if expired:
            self._owner.expired(expired)
        self._set_timer()

    def _set_timer(self) -> None:
        self.stop()
        wait = self._due.keys()[0][0] - self._clock() if self._due else SWEEP_SECONDS
        if wait < SWEEP_SECONDS:
            self._timer = self._timers.call_later(max(wait, MIN_WAIT_SECONDS), self.sweep)

    def stop(self) -> None:
        """Report nothing any more, except when swept."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Evictions:
    """Ends those of `streams` that may no longer stay.

    Args:
        batches: ends many streams in batches.
        clock: seconds since 1970.

    Attributes:
        revocations: those that this instance knows.
        passes: carry out orders that concern many streams.
    """

    def __init__(self, streams: StreamOwner, batches: BatchRunner, clock: Clock, timers: Timers) -> None:
        self.revocations = Revocations()
        self.passes = Passes(streams, batches, self._is_refused)
        self._streams = streams
        self._batches = batches
        self._clock = clock
        self._expiries = Expiries(self, clock, timers)
        self._trusts: Callable[[Grant], bool] | None = None

    def check(self, grant: Grant) -> None:
        """Raises `Unauthorized` if the token was revoked, has expired or lost its key since it was verified."""
        if grant is FULL_ACCESS:
            return  # an open broker knows no tokens
        now = self._clock()
        self.revocations.check(grant, now)
        if self._trusts is not None and not self._trusts(grant):
            raise Unauthorized(
                "The key that signed this token was withdrawn; get a new one.",
                error="invalid_token",
                reason=DenialReason.WITHDRAWN_KEY,
            )
        if grant.expires_at is not None and grant.expires_at <= now:
            raise Unauthorized(
                "This token has expired; get a new one.", error="invalid_token", reason=DenialReason.EXPIRED
            )

    def opened(self, subscriber: Subscriber) -> None:
        """A stream has begun. It may stay until its token expires."""
        self.passes.opened(subscriber)
        until = subscriber.caller.grant.expires_at
        if until is not None:
            self._expiries.add(subscriber, until)

    def closed(self, subscriber: Subscriber) -> None:
        """The subscriber's connection is gone."""
        self._expiries.remove(subscriber)
        self.passes.closed(subscriber)

    def disconnect(self, command: Disconnect) -> None:
        """End all streams of the topic, even those of several topics, or all streams of the subject."""
        if command.topic is not None:
            self.passes.disconnect_topic(command.topic)
        elif command.subject is not None:
            self.passes.disconnect_subject(command.subject)

    def revoke(self, command: Revoke) -> None:
        """Refuse the tokens from now on, and end their streams."""
        if command.token_id is not None:
            self.revocations.revoke_token(command.token_id, at=command.at, until=command.until)
        if command.subject is not None:
            self.revocations.revoke_subject(command.subject, at=command.at, until=command.until)
        self.passes.end_refused()

    def keys_changed(self, trusts: Callable[[Grant], bool]) -> None:
        """Refuse, from now on, the tokens that `trusts` doesn't trust, and end their streams."""
        self._trusts = trusts
        self.passes.end_refused()

    def _is_refused(self, grant: Grant) -> bool:
        if self.revocations.is_revoked(grant, self._clock()):
            return True
        return self._trusts is not None and not self._trusts(grant)

    def expired(self, subscribers: Sequence[Subscriber]) -> None:
        self._batches.run(_EndExpired(self._streams, self._clock), subscribers)

    def sweep(self) -> None:
        """End expired streams, and forget old revocations; called about once a second."""
        self._expiries.sweep()
        self.revocations.sweep(self._clock())

    def stop(self) -> None:
        self._expiries.stop()


class _EndExpired(Job):
    """Ends streams before their token expires. Clients must wait until it has: before, it still admits them."""

    def __init__(self, streams: StreamOwner, clock: Clock) -> None:
        self._streams = streams
        self._clock = clock

    def act(self, subscriber: Subscriber) -> None:
        until = subscriber.caller.grant.expires_at
        assert until is not None
        left = max(0.0, until - self._clock())
        self._streams.end(subscriber, CloseReason.EXPIRED, _EXPIRED, left)


_EXPIRED = sse.control("broker.expired", {"reason": "expired"})
