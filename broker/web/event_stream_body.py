"""Decodes a body that is an event stream (contract §2), such as the answer of a language model.

Rules: bytes in, `(topic, lines)` items out, lazily. The grammar is the standard's (WHATWG HTML §9.2.6); `id`, `retry` and
comments are not published. Three things that a browser accepts are errors: invalid UTF-8, an end within an event, for then
the source was cut, and a body that isn't an event stream at all, such as an error page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker import sse
from broker.errors import InvalidBody, InvalidParameter, NoEventStream
from broker.stores.base import Item, PlainEvents
from broker.topics import check_type
from broker.web.end_mark import EndMark
from broker.web.errors import event_too_large

LINE_FACTOR = 7  # a line of data with one character has `data: ` before it
STEP_BYTES = 4096  # decoded at once; if they are the shortest events, in some 2 ms
LINES_PER_TURN = 1000  # of the loop
SLACK_BYTES = 4096  # for the other fields, and for comments


class EventStreamBody:
    """One body, with events for `topic`.

    Args:
        mark: its last event is complete even without the empty line behind it; None if the body has no mark.
    """

    def __init__(self, topic: str, max_event_bytes: int, mark: EndMark | None = None) -> None:
        self._topic = topic
        self._mark = mark
        self._max_event_bytes = max_event_bytes
        self._decoder = sse.Decoder(LINE_FACTOR * max_event_bytes + SLACK_BYTES, strict=True)

    def location(self) -> Mapping[str, object]:
        """Empty: an event stream has no line numbers to report."""
        return {}

    def plain_events(self, data: bytes) -> PlainEvents | None:
        """The events that `data` is, if they are few, each with a single line of data, and follow another. Else None: `items` takes them."""
        events = self._decoder.feed_plain(data) if len(data) <= self._max_event_bytes else ()
        if not events:
            return None
        if b"event: " in data and not all(map(_has_valid_type, events)):
            return None  # `items` has the events before it published
        return self._topic, events

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes. Raises a `BrokerError` at the first bad event."""
        left = LINES_PER_TURN
        for first in range(0, len(data), STEP_BYTES):
            if left <= 0:
                left = LINES_PER_TURN
                yield None
            step = data[first : first + STEP_BYTES]
            left -= step.count(b"\n") + step.count(b"\r")
            yield from self._decode(step)

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
        """The mark, if the body ends with it and without the empty line behind it.

        Raises:
            NoEventStream: the body has lines, but none of an event stream.
            InvalidBody: it ends within another event.
        """
        decoder = self._decoder
        if not decoder.is_within_event:
            self._check_is_event_stream()
            return
        is_within_line = decoder.is_within_line
        items = list(self._decode(b"\n\n"))
        self._check_is_event_stream()
        if self._mark is not None and items:
            (_, lines), *_ = items
            if self._mark.has_data_of(lines) or (self._mark.has_type_of(lines) and not is_within_line):
                yield from items
                return
        if decoder.has_fields:
            raise InvalidBody(
                "The body ends within an event, so its source was cut; an event ends with an empty line."
            )

    def _check_is_event_stream(self) -> None:
        if self._decoder.has_other_lines and not self._decoder.has_fields:
            raise NoEventStream(
                "The body isn't an event stream: no line of it has 'data', 'event', 'id' or 'retry'. Look at what its source "
                "has answered; it may be an error."
            )


def _has_valid_type(lines: bytes) -> bool:
    """Whether the lines of an event have a type that may be published, or none."""
    event_type = sse.type_of(lines)
    try:
        return event_type is None or bool(check_type(event_type))
    except InvalidParameter:
        return False
