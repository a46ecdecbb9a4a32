"""Orders to end streams, merged: one pass over all subscribers carries out all orders that came before it began.

Rules: one pass is under way, and at most one waits, however many orders come. An order costs its own text, not a list of
subscribers.

An order concerns the streams that were open when it came: a disconnected client may return at once. So orders are numbered,
and streams that open during a pass (newcomers) remember which order was the latest then. No token of a newcomer is refused,
for it was checked when the stream began; but checking it again is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from broker import sse
from broker.auth.grants import Grant
from broker.fanout.batches import BatchRunner, Job
from broker.fanout.close_reason import CloseReason
from broker.fanout.hub import Hub
from broker.fanout.subscriber import Subscriber

_REVOKED = sse.control("broker.expired", {"reason": "revoked"})


class StreamOwner(Protocol):
    """Owns the streams, and ends them."""

    @property
    def hub(self) -> Hub: ...

    def end(
        self, subscriber: Subscriber, reason: CloseReason, farewell: bytes = b"", wait_seconds: float = 0.0
    ) -> None:
        """End a stream with `farewell`; its client is asked to reconnect after at least `wait_seconds`."""


class Passes:
    """Carries out orders against the streams of `streams`.

    Args:
        batches: runs the passes.
        is_refused: whether a token is good no longer.

    Attributes:
        newcomers: streams that opened during a pass, with the number of the latest order then.
    """

    def __init__(
        self, streams: StreamOwner, batches: BatchRunner, is_refused: Callable[[Grant], bool]
    ) -> None:
        self.newcomers: dict[Subscriber, int] = {}
        self._streams = streams
        self._batches = batches
        self._is_refused = is_refused
        self._number = 0  # of the latest order
        self._running: _Pass | None = None
        self._waiting: _Pass | None = None

    def opened(self, subscriber: Subscriber) -> None:
        """A stream has begun: only later orders concern it."""
        if self._running is not None:
            self.newcomers[subscriber] = self._number

    def closed(self, subscriber: Subscriber) -> None:
        """The subscriber's connection is gone."""
        self.newcomers.pop(subscriber, None)

    def disconnect_topic(self, topic: str) -> None:
        """End all streams of the topic, even those of several topics."""
        order = self._next()
        order.topics[topic] = self._number
        self._begin()

    def disconnect_subject(self, subject: str) -> None:
        order = self._next()
        order.subjects[subject] = self._number
        self._begin()

    def end_refused(self) -> None:
        """End the streams with tokens that are refused by now."""
        self._next().checks_tokens = True
        self._begin()

    def _next(self) -> _Pass:
        """The pass that takes the next order."""
        self._number += 1
        if self._waiting is None:
            self._waiting = _Pass(self, self._streams, self._is_refused, self._number)
        return self._waiting

    def _begin(self) -> None:
        """Begin the pass that waits, unless one is under way."""
        if self._running is not None or self._waiting is None:
            return
        self._running, self._waiting = self._waiting, None
        first = self._running.first
        self.newcomers = {one: number for one, number in self.newcomers.items() if number >= first}
        self._batches.run(self._running, self._streams.hub.visit())

    def ended(self) -> None:
        """Called by the pass that was under way."""
        self._running = None
        if self._waiting is None:
            self.newcomers = {}
        else:
            self._begin()


class _Pass(Job):
    """Ends the streams that its orders concern.

    Attributes:
        first: the number of its first order.
        topics, subjects: those to disconnect, each with the number of the latest order.
        checks_tokens: whether to end streams with refused tokens.
    """

    def __init__(
        self, owner: Passes, streams: StreamOwner, is_refused: Callable[[Grant], bool], first: int
    ) -> None:
        self.first = first
        self.topics: dict[str, int] = {}
        self.subjects: dict[str, int] = {}
        self.checks_tokens = False
        self._owner = owner
        self._streams = streams
        self._is_refused = is_refused

    def concerns(self, subscriber: Subscriber) -> bool:
        return self._refuses(subscriber) or self._disconnects(subscriber)

    def act(self, subscriber: Subscriber) -> None:
        farewell = _REVOKED if self._refuses(subscriber) else b""
        self._streams.end(subscriber, CloseReason.DISCONNECTED, farewell)

    def done(self) -> None:
        self._owner.ended()

    def _refuses(self, subscriber: Subscriber) -> bool:
        return self.checks_tokens and self._is_refused(subscriber.caller.grant)

    def _disconnects(self, subscriber: Subscriber) -> bool:
        opened_after = self._owner.newcomers.get(subscriber, 0)
        subject = subscriber.caller.grant.subject
        if self.subjects and subject is not None and self.subjects.get(subject, 0) > opened_after:
            return True
        if (
            not self.topics
            or subscriber.feed is None
            or self.topics.keys().isdisjoint(subscriber.feed.key.topics)
        ):
            return False
        return max(self.topics.get(topic, 0) for topic in subscriber.feed.key.topics) > opened_after
