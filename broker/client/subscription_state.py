"""The state of a subscription: the events that it has received, and its next request. Independent of how bytes arrive.

Rules: no I/O and no clock; a driver connects, reads and waits: `subscription` with asyncio, `blocking.subscription` without.
Between two calls the state is consistent, so a driver may be interrupted anywhere between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from broker.backoff import Backoff
from broker.client.address import topic_url
from broker.client.control_events import decode
from broker.client.errors import SubscribeError, unexpected
from broker.client.types import ClientOptions, End, StartOptions
from broker.errors import TooLarge
from broker.events import Event
from broker.sse import Decoder

FIRST_DELAY_SECONDS = 3.0
"""Used until the broker sends `retry:`; browsers use about the same."""

HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}
"""Not `text/event-stream`: the broker would refuse as it refuses browsers, without a reason and with a long delay."""


class SubscriptionState:
    """The state of one subscription. All times are in seconds of the driver's clock.

    Args:
        ends: return an `End` for each topic that ends.
        now: the time at which the subscription starts.

    Attributes:
        ended: the topics that have ended, as far as they were read, and the reasons.
        is_over: it will not connect again. Events may still be pending.

    Raises:
        SubscribeError: a topic name is invalid.
        ValueError: `topics` is empty.
    """

    def __init__(
        self,
        base: str,
        topics: Sequence[str],
        start: StartOptions,
        options: ClientOptions,
        *,
        ends: bool,
        now: float,
    ) -> None:
        topic_url(SubscribeError, base, topics)
        self.ended: dict[str, str] = {}
        self.is_over = False
        self._base = base
        self._topics = tuple(topics)
        self._start = start
        self._max_event_bytes = options.max_event_bytes
        self._ends = ends
        self._created_at = now
        self._backoff = Backoff(FIRST_DELAY_SECONDS, options.max_delay_seconds)
        self._decoder: Decoder | None = None  # of the open stream
        self._has_event = False  # of the open stream
        self._opened_at = now
        self._read_cursor = start.cursor  # of the last event read
        self._returned_cursor = start.cursor  # of the last event returned
        self._pending: deque[Event] = deque()  # read, not yet returned
        self._failure: SubscribeError | None = None

    @property
    def cursor(self) -> str:
        """The cursor after the last returned event; `""` until the broker has sent one."""
        return self._returned_cursor if self._pending else self._read_cursor

    @property
    def has_position(self) -> bool:
        """Whether nothing that is published from now on can be missed: a stream with a fixed start is open, or an event is pending.

        Its start is fixed by a cursor, or by a start other than `latest`.
        """
        is_fixed = bool(self._read_cursor or not self._start.is_latest)
        return bool(self._pending) or (self._decoder is not None and is_fixed)

    def take(self) -> Event | None:
        """The next event that was read, or None. Raises the `SubscribeError` that ended the subscription, once, after them."""
        if not self._pending:
            self.raise_failure()
            return None
        event = self._pending.popleft()
        self._returned_cursor = event.id
        return event

    def raise_failure(self) -> None:
        """Raise the error that ended the subscription, once, unless events are pending before it."""
        if not self._pending and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # Connecting

    def url(self, now: float) -> str:
        """The URL of the next request."""
        query = {} if self._read_cursor else self._start.query(now - self._created_at)
        if len(self._topics) > 1:
            query["envelope"] = "json"
        return topic_url(SubscribeError, self._base, self._remaining, query)

    def headers(self) -> dict[str, str]:
        """The headers of the next request, without the token."""
        return {**HEADERS, "Last-Event-ID": self._read_cursor} if self._read_cursor else dict(HEADERS)

    @property
    def _remaining(self) -> list[str]:
        return [topic for topic in self._topics if topic not in self.ended]

    def opened(self, now: float) -> None:
        """A stream is open; `feed` gets its bytes."""
        self._decoder = Decoder(self._max_event_bytes)
        self._decoder.last_event_id = self._read_cursor
        self._has_event = False
        self._opened_at = now

    def refused(self, refusal: SubscribeError) -> float | None:
        """A request was refused: the seconds until the next one, or None if retrying does not help."""
        if refusal.passing:
            return self._backoff.next(refusal.retry_after)
        self._fail(refusal)
        return None

    def lost(self, now: float) -> float:
        """The stream was cut: the seconds until the next request."""
        if self._has_event or now - self._opened_at > self._backoff.first:
            self._backoff.reset()
        self._decoder = None
        return self._backoff.next()

    def finish(self) -> None:
        """No event will ever come."""
        self.is_over = True
        self._decoder = None

    def close(self) -> None:
        """The caller wants no more."""
        self.finish()
        self._pending.clear()

    # Reading

    def feed(self, data: bytes) -> None:
        """Bytes of the open stream."""
        decoder = self._decoder
        assert decoder is not None
        try:
            for event in decoder.feed(data):
                self._has_event = True
                self._receive(event)
            self._read_cursor = decoder.last_event_id
            decoder.check()
        except TooLarge as error:
            self._fail(SubscribeError(error.code, error.detail))
        except (ValueError, KeyError):
            self._fail(unexpected(SubscribeError, "The stream is not a broker's"))
        if self._has_event:
            self._backoff.reset()
        if decoder.retry_ms is not None:
            self._backoff.set_first(decoder.retry_ms / 1000)
        if not self._remaining:
            self.finish()

    def _receive(self, event: Event) -> None:
        decoded = decode(event, self._topics[0] if len(self._topics) == 1 else None)
        if isinstance(decoded, End):
            assert decoded.topic is not None
            self.ended[decoded.topic] = decoded.reason
        if decoded is not None and (self._ends or not isinstance(decoded, End)):
            self._pending.append(decoded)
        self._read_cursor = event.id

    def _fail(self, error: SubscribeError) -> None:
        """End the subscription. The pending events are returned first, then `error` is raised."""
        if not self.is_over:
            self._failure = error
            self.finish()
