"""Ends the streams of those who may stay no longer: their token expires or is revoked, or an operator says so.

Rules: who that is, and what they hear last. How a stream ends is the hub's business; what other instances say comes here
through the node.

When the streams end that somebody's token let in: a little before the token's own time, each at another moment.

Rules: never after it. Whoever logs in at nine with a token for an hour would else be back at ten sharp, with everybody.
The time is that of a clock which may be set; so it is looked at about once a second, and a timer is for the rest of one.
"""

from __future__ import annotations

import itertools
import random
from asyncio import TimerHandle
from collections.abc import Callable, Sequence

from sortedcontainers import SortedDict

from broker import sse
from broker.auth.grants import Grant
from broker.auth.revocations import Revocations
from broker.errors import Unauthorized
from broker.events import Clock
from broker.fanout.batches import BatchRunner
from broker.fanout.subscriber import CloseReason, Subscriber
from broker.node.commands import Disconnect, Revoke

EARLY = (0.01, 0.1)
"""What part of the time that is left a stream may end before it is over."""
EARLY_MOST_SECONDS = 10.0
LOOK_SECONDS = 1.0
LEAST_WAIT_SECONDS = 0.01

CallLater = Callable[[float, Callable[[], None]], TimerHandle]

_Key = tuple[float, int]


class Expiries:
    """See the module.

    Args:
        clock: seconds since 1970.
        call_later: schedules a callable, in seconds from now.
        on_expired: called with those whose time has come.
    """

    def __init__(
        self,
        clock: Clock,
        call_later: CallLater,
        on_expired: Callable[[Sequence[Subscriber]], None],
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._on_expired = on_expired
        self._due: SortedDict[_Key, Subscriber] = SortedDict()
        self._keys: dict[Subscriber, _Key] = {}
        self._numbers = itertools.count()
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, subscriber: Subscriber, until: float) -> None:
        """End its stream before `until`, seconds since 1970."""
        left = max(0.0, until - self._clock())
        early = min(left * random.uniform(*EARLY), random.uniform(0.0, EARLY_MOST_SECONDS))
        key = (until - early, next(self._numbers))
        self._keys[subscriber] = key
        self._due[key] = subscriber
        if self._due.keys()[0] == key:
            self._arm()

    def remove(self, subscriber: Subscriber) -> None:
        """It has ended, for whatever reason."""
        key = self._keys.pop(subscriber, None)
        if key is not None:
            self._due.pop(key, None)

    def look(self) -> None:
        """Tell of those whose time has come; to be called about once a second."""
        now = self._clock()
        expired = []
        while self._due and self._due.keys()[0][0] <= now:
            _, subscriber = self._due.popitem(0)
            del self._keys[subscriber]
            expired.append(subscriber)
        if expired:
            self._on_expired(expired)
        self._arm()

    def _arm(self) -> None:
        self.stop()
        wait = self._due.keys()[0][0] - self._clock() if self._due else LOOK_SECONDS
        if wait < LOOK_SECONDS:
            self._timer = self._call_later(max(wait, LEAST_WAIT_SECONDS), self.look)

    def stop(self) -> None:
        """Look no more, but where asked to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


End = Callable[[Subscriber, CloseReason, bytes, float], None]


class Evictions:
    """See the module.

    Args:
        slices: by which many streams end.
        call_later: schedules a callable, in seconds from now.
        clock: seconds since 1970.
        subscribers: all that are there at the moment.
        end: ends a stream, for a reason; the bytes are an event that is the last one, and for so many seconds its client is
            not to come back.

    Attributes:
        revocations: those that are known here.
    """

    def __init__(
        self,
        slices: BatchRunner,
        call_later: CallLater,
        clock: Clock,
        subscribers: Callable[[], Sequence[Subscriber]],
        end: End,
    ) -> None:
        self.revocations = Revocations()
        self._clock = clock
        self._subscribers = subscribers
        self._end = end
        self._slices = slices
        self._expiries = Expiries(clock, call_later, self._expired)

    def check(self, grant: Grant) -> None:
        """Raises `Unauthorized` where what lets a caller in has been revoked, or has expired, since it was looked at."""
        self.revocations.check(grant)
        if grant.expires_at is not None and grant.expires_at <= self._clock():
            raise Unauthorized("This token has expired; get a new one.", error="invalid_token")

    def admitted(self, subscriber: Subscriber) -> None:
        """It is there, until its token expires."""
        until = subscriber.caller.grant.expires_at
        if until is not None:
            self._expiries.add(subscriber, until)

    def left(self, subscriber: Subscriber) -> None:
        """It is there no longer."""
        self._expiries.remove(subscriber)

    def disconnect(self, order: Disconnect) -> None:
        """End the streams that `order` is about; who reads the topic, be it one of several, or has the subject's token."""

        def concerns(subscriber: Subscriber) -> bool:
            if order.topic is None:
                return subscriber.caller.grant.subject == order.subject
            return subscriber.reads(order.topic)

        self._end_where(concerns, CloseReason.DISCONNECTED, b"")

    def revoke(self, order: Revoke) -> None:
        """Refuse the tokens that `order` is about from now on, and end their streams."""
        if order.token_id is not None:
            self.revocations.revoke_token(order.token_id, at=order.at, until=order.until)
        if order.subject is not None:
            self.revocations.revoke_subject(order.subject, at=order.at, until=order.until)
        self._end_where(
            lambda subscriber: self.revocations.is_revoked(subscriber.caller.grant),
            CloseReason.DISCONNECTED,
            _farewell("revoked"),
        )

    def _end_where(
        self, concerns: Callable[[Subscriber], bool], reason: CloseReason, farewell: bytes
    ) -> None:
        self._slices.order(
            self._subscribers(), concerns, lambda subscriber: self._end(subscriber, reason, farewell, 0.0)
        )

    def _expired(self, subscribers: Sequence[Subscriber]) -> None:
        self._slices.order(subscribers, lambda _subscriber: True, self._end_expired)

    def _end_expired(self, subscriber: Subscriber) -> None:
        """Who comes back by itself does so when the token is good no longer, and is refused once, not let in again."""
        until = subscriber.caller.grant.expires_at
        assert until is not None
        left = max(0.0, until - self._clock())
        self._end(subscriber, CloseReason.EXPIRED, _EXPIRED, left)

    def look(self) -> None:
        """Whose time has come, and which revocations are to be forgotten; to be called about once a second."""
        self._expiries.look()
        self.revocations.sweep(self._clock())

    def stop(self) -> None:
        """End nobody any more."""
        self._expiries.stop()


def _farewell(reason: str) -> bytes:
    """What tells a page that its token is good no longer: what it comes back with will be refused, for good."""
    return sse.control("broker.expired", {"reason": reason})


_EXPIRED = _farewell("expired")
