"""Decodes a body that is an event stream (contract §2), such as the answer of a language model.

Rules: bytes in, `(topic, lines)` items out, lazily. The grammar is the standard's (WHATWG HTML §9.2.6); `id`, `retry` and
comments are not published. Two things that a browser accepts are errors: invalid UTF-8, and an end within an event, for then
the source was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker import sse
from broker.errors import InvalidBody
from broker.stores.base import Item
from broker.topics import check_type
from broker.web.errors import event_too_large

LINE_FACTOR = 7  # a line of data with one character has `data: ` before it
SLICE_BYTES = 16 << 10  # if they are nothing but comments, some 4 ms
SLACK_BYTES = 4096  # for the other fields, and for comments


class EventStreamBody:
    """One body, with events for `topic`."""

    def __init__(self, topic: str, max_event_bytes: int) -> None:
        self._topic = topic
        self._max_event_bytes = max_event_bytes
        self._decoder = sse.Decoder(LINE_FACTOR * max_event_bytes + SLACK_BYTES, strict=True)

    def location(self) -> Mapping[str, object]:
        """Empty: an event stream has no line numbers to report."""
        return {}

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes. Raises a `BrokerError` at the first bad event."""
        if len(data) <= self._max_event_bytes:
            one = self._decoder.feed_one(data)
            if one is not None:
                event_type, lines = one
                if event_type is not None:
                    check_type(event_type)
                yield self._topic, lines
                return
        for first in range(0, len(data), SLICE_BYTES):
            if first:
                yield None
            yield from self._decode(data[first : first + SLICE_BYTES])

    def _decode(self, data: bytes) -> Iterator[Item]:
        for event in self._decoder.feed(data):
            text = event.data.encode()
            if len(text) > self._max_event_bytes:
                raise event_too_large(self._max_event_bytes)
            event_type = None if event.type is None else check_type(event.type)
            yield self._topic, sse.lines(text, event_type)
        self._decoder.check()

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept until their event is complete."""
        return self._decoder.held_bytes

    def end(self) -> Iterator[Item | None]:
        """No events. Raises `InvalidBody` if the body ends within an event."""
        if self._decoder.is_within_event:
            raise InvalidBody(
                "The body ends within an event, so its source was cut; an event ends with an empty line."
            )
        yield from ()
