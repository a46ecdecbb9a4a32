"""Server-sent events as bytes: encode and decode.

Rules: bytes and values only, no I/O. Every valid event can be encoded; callers check validity first. The format is contract §3,
the grammar WHATWG HTML §9.2.6. An encoded event has three forms:

    lines      the `event:` and `data:` lines, which the publisher decides; encoded once, by the instance that received it
    frame      the lines, then `id:` as the last line, so that a client requests an event again if it was cut
    envelope   the same event with one line of JSON as its data, made from the frame on request
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from broker.errors import BrokerError, InvalidBody, TooLarge
from broker.events import SEQUENCE_BITS, SEQUENCE_MASK, Event, EventId, id_seconds, rfc3339

HEARTBEAT: bytes = b":\n"
_DATA = b"data: "
_TYPE = b"event: "
_TRACE, _TRACE_STATE = b":traceparent=", b":tracestate="
_TRACED = re.compile(rb"%b(.*)\n(?:%b(.*)\n)?" % (_TRACE, _TRACE_STATE))
_BOM = b"\xef\xbb\xbf"
_PLAIN_EVENTS = re.compile(rb"(?:(?:event: [^\r\n]+\n)?data: [^\r\n]*\n\n){1,32}")
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_json_string = json.encoder.encode_basestring


def lines(data: bytes, event_type: str | None = None) -> bytes:
    """The `event:` and `data:` lines of an event. `data` must be valid UTF-8, and `event_type` must have passed `check_type`.

    Data is split only at CRLF, LF and CR. Empty data is one empty line.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\n" + _DATA)
    if event_type is None:
        return b"data: %b\n" % data
    return b"event: %b\ndata: %b\n" % (event_type.encode(), data)


def traced(event_lines: bytes, traceparent: str, tracestate: str = "") -> bytes:
    """The lines of an event with the trace that it belongs to, as comments: readers of the plain form ignore them."""
    state = b"%b%b\n" % (_TRACE_STATE, tracestate.encode()) if tracestate else b""
    return b"%b%b\n%b%b" % (_TRACE, traceparent.encode(), state, event_lines)


def trace_of(event_frame: bytes) -> str | None:
    """The `traceparent` in an event's lines or frame, or None."""
    found = _TRACED.match(event_frame)
    return None if found is None else found[1].decode()


def _trace_members(event_frame: bytes) -> str:
    """The trace of an event, as members of its envelope, each with a comma behind it."""
    found = _TRACED.match(event_frame)
    if found is None:
        return ""
    trace = f'"traceparent":"{found[1].decode()}",'
    return trace if found[2] is None else f'{trace}"tracestate":{_json_string(found[2].decode())},'


def frame(event_lines: bytes, event_id: EventId) -> bytes:
    """The complete event, as it is sent."""
    return b"%bid: %d-%d\n\n" % (event_lines, event_id >> SEQUENCE_BITS, event_id & SEQUENCE_MASK)


def control(event_type: str, value: Mapping[str, object], event_id: EventId | None = None) -> bytes:
    """A control event (contract §3). Without an id it doesn't move the client's cursor."""
    event_lines = lines(_compact(value).encode("utf-8", "replace"), event_type)
    return event_lines + b"\n" if event_id is None else frame(event_lines, event_id)


def gap(topic: str, after: str, reason: str) -> bytes:
    """`broker.gap` (contract §3): events of `topic` after the cursor `after` can't be delivered."""
    return control("broker.gap", {"topic": topic, "after": after, "reason": reason})


def end(topic: str, reason: str, event_id: EventId) -> bytes:
    """`broker.end` (contract §3): `topic` closed."""
    return control("broker.end", {"topic": topic, "reason": reason}, event_id)


def with_id(event_frame: bytes, event_id: EventId | None) -> bytes:
    """A frame that this module made, with another id or with none."""
    event_lines = event_frame[: event_frame.rindex(b"id: ")]
    return event_lines + b"\n" if event_id is None else frame(event_lines, event_id)


def envelope(topic: str, event_frame: bytes, event_id: EventId, seconds: float | None = None) -> bytes:
    """The envelope form of the event in `event_frame`; `seconds` (since 1970) is its time, if that isn't the id's.

    Written piece by piece, since it is made for each event: as a value for the JSON encoder it costs three times as much.
    """
    event = split(event_frame)
    event_type = "null" if event.type is None else _json_string(event.type)
    time = rfc3339(id_seconds(event_id) if seconds is None else seconds)
    trace, data = _trace_members(event_frame), _json_string(event.data)
    fields = f'"event":{event_type},"time":"{time}",{trace}"data":{data}'
    return f'data: {{"topic":"{topic}","id":"{event.id}",{fields}}}\nid: {event.id}\n\n'.encode()


def envelope_value(envelope_frame: bytes) -> bytes:
    """The line of JSON in an envelope."""
    return envelope_frame[len(_DATA) : envelope_frame.index(b"\n")]


def split(event_frame: bytes) -> Event:
    """The event in a frame that this module made. The cost doesn't depend on the number of its lines."""
    event_lines, _, event_id = event_frame[:-2].rpartition(b"id: ")
    event_type = None
    if trace := _TRACED.match(event_lines):
        event_lines = event_lines[trace.end() :]
    if event_lines.startswith(_TYPE):
        first, _, event_lines = event_lines.partition(b"\n")
        event_type = first.removeprefix(_TYPE).decode()
    data = event_lines[len(_DATA) : -1].replace(b"\n" + _DATA, b"\n")
    return Event(data.decode(), event_type, event_id.decode())


def type_of(event_lines: bytes) -> str | None:
    """The type in the lines of an event that this module made, or took (`Decoder.feed_plain`)."""
    if not event_lines.startswith(_TYPE):
        return None
    return event_lines[len(_TYPE) : event_lines.index(b"\n")].decode()


def retry(milliseconds: int) -> bytes:
    """The reconnect delay for a client. No blank line follows, because some clients take that for an empty event."""
    return b"retry: %d\n" % milliseconds


class Decoder:
    """Decodes a stream, given as byte strings of any length, into events (WHATWG HTML §9.2.6).

    As in the standard, an id becomes the last event id only when its event is complete, so that a client requests a cut event
    again. One difference: a `retry` of more than nine digits (eleven days) is ignored.

    Args:
        max_event_bytes: limit for the lines of one event, and for a single line.
        strict: fail on invalid UTF-8 instead of replacing it as the standard does.

    Attributes:
        last_event_id: the cursor; `""` before the first id.
        retry_ms: the latest reconnect delay in the stream, or None.
        has_fields: whether it has had a line with one of the four fields.
        has_other_lines: whether it has had a line that is neither a field, nor a comment, nor empty.
    """

    def __init__(self, max_event_bytes: int = 16 << 20, *, strict: bool = False) -> None:
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.has_fields = False
        self.has_other_lines = False
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()  # the unfinished line
        self._size = 0  # bytes of the event's finished lines
        self._at_start = True
        self._after_cr = False  # a following LF belongs to that CR
        self._failure: tuple[type[BrokerError], str] | None = None  # an exception would keep its frames
        self._errors = "strict" if strict else "replace"
        self._data = bytearray()  # the lines of data, each with its LF: strings would take ten times as much
        self._type = ""
        self._id: str | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order.

        Raises:
            TooLarge: the lines of an event, or a comment, are longer than `max_event_bytes`. Events before it were returned
                by an earlier call, and every further call raises the same error.
            InvalidBody: likewise for invalid UTF-8, if this decoder is strict.
        """
        events = [] if self._failure else self._events(data)
        if not events:
            self.check()
        return events

    def feed_plain(self, data: bytes) -> Sequence[bytes]:
        """The lines of each of the events that `data` is; empty, and nothing is fed, if it is anything else: then call `feed`.

        It takes at most 32 events, each with one line of data, such as tokens. This costs a fifth of `feed` and `lines`.
        """
        is_between = not (self._rest or self._size or self._after_cr or self._failure)
        if not is_between or len(data) > self._max_event_bytes or not _PLAIN_EVENTS.fullmatch(data):
            return ()
        try:
            data.decode()
        except UnicodeDecodeError:
            return ()
        self._at_start, self.has_fields = False, True
        if data.find(b"\n\n") == len(data) - 2:
            return (data[:-1],)
        return [event + b"\n" for event in data[:-2].split(b"\n\n")]

    def check(self) -> None:
        """Raise the error that ended decoding, if one did. Events before it were returned."""
        if self._failure is not None:
            error, detail = self._failure
            raise error(detail)

    @property
    def is_within_event(self) -> bool:
        """Whether the stream so far ends within an event."""
        return bool(self._data or self._type or (self._rest and not self._rest.startswith(b":")))

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept until their event is complete."""
        return len(self._rest) + self._size

    @property
    def is_within_line(self) -> bool:
        """Whether the stream so far ends within a line."""
        return bool(self._rest)

    def _events(self, data: bytes) -> list[Event]:
        """The completed events. If decoding fails, sets `_failure` and returns the events before it."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        events: list[Event] = []
        for line in self._complete(data):
            if self._size + len(line) > self._max_event_bytes:
                self._fail_too_large()
                return events
            if line:
                try:
                    self._field(line)
                except UnicodeDecodeError:
                    self._failure = InvalidBody, "A line of the stream is not valid UTF-8."
                    return events
                continue
            if not self._size:
                continue  # one blank line of many costs as little as can be
            event = self._dispatch()
            if event is not None:
                events.append(event)
        if self._size + len(self._rest) > self._max_event_bytes:
            self._fail_too_large()
        return events

    def _fail_too_large(self) -> None:
        self._failure = TooLarge, f"An event of the stream is larger than {self._max_event_bytes} bytes."

    def _complete(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. A CR completes a line at once, without waiting for a LF."""
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, rest = data.split(b"\n")
        if complete:
            if self._rest:
                complete[0] = bytes(self._rest) + complete[0]
                self._rest.clear()
            complete[0] = self._without_bom(complete[0])
        if rest:
            self._rest += rest
        return complete

    def _without_bom(self, first: bytes) -> bytes:
        if not self._at_start:
            return first
        self._at_start = False
        return first.removeprefix(_BOM)

    def _field(self, line: bytes) -> None:
        if line.startswith(b":"):
            return
        self._size += len(line)
        name, _, raw = line.partition(b":")
        raw = raw.removeprefix(b" ")
        value = raw.decode("utf-8", self._errors)
        if name == b"data":
            self._data += raw
            self._data += b"\n"
        elif name == b"event":
            self._type = value
        elif name == b"id":
            self._id = self._id if "\0" in value else value
        elif name != b"retry":
            self.has_other_lines = True
            return
        elif value.isascii() and value.isdigit() and len(value) <= 9:
            self.retry_ms = int(value)
        self.has_fields = True

    def _dispatch(self) -> Event | None:
        if self._id is not None:
            self.last_event_id = self._id
        data, event_type = self._data, self._type
        self._data, self._type, self._id, self._size = bytearray(), "", None, 0
        if not data:
            return None
        return Event(
            data=data[:-1].decode("utf-8", self._errors), type=event_type or None, id=self.last_event_id
        )
