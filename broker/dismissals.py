"""Ends the streams of those who may stay no longer: their token expires or is revoked, or an operator says so.

Rules: who that is, and what they hear last. How a stream ends is the hub's business; what other instances say comes here
through the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker import sse
from broker.access import Grant
from broker.errors import Unauthorized
from broker.events import Clock
from broker.expiries import CallLater, Expiries
from broker.notices import Disconnect, Revoke
from broker.revocations import Revocations
from broker.slices import Slices
from broker.subscriber import CloseReason, Subscriber

End = Callable[[Subscriber, CloseReason, bytes, float], None]


class Dismissals:
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
        slices: Slices,
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
        if grant.until is not None and grant.until <= self._clock():
            raise Unauthorized("This token has expired; get a new one.", error="invalid_token")

    def admitted(self, subscriber: Subscriber) -> None:
        """It is there, until its token expires."""
        until = subscriber.caller.grant.until
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
            lambda subscriber: self.revocations.concerns(subscriber.caller.grant),
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
        until = subscriber.caller.grant.until
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
