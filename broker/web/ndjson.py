"""Decodes a body of JSON lines (contract §2): one object a line, with `data`, and optionally `event` and `topic`.

Rules: bytes in, `(topic, lines)` items out, lazily, so that the events before a bad line are published. No I/O.
"""

from __future__ import annotations

import json
import json.encoder
import json.scanner
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NoReturn, cast

from broker import sse
from broker.auth.grants import Grant
from broker.errors import InvalidBody, InvalidParameter, InvalidTopic, TooLarge
from broker.stores.base import Item, PlainEvents
from broker.topics import check_publishable, check_type
from broker.web.errors import event_too_large
from broker.web.long_lines import not_json, not_one_object, parse, too_many_members

_BOM = b"\xef\xbb\xbf"
_UNCOUNTED = b"\\ \t"
_MEMBERS = ("data", "event", "topic")

MAX_GRANTED = 1000  # topics remembered as allowed
LINES_PER_PAUSE = 128
LINE_FACTOR = 6  # a character of data may be written as \u00XX
LINE_SLACK_BYTES = 4096  # for the rest of a line's JSON
ESCAPE_BYTES = 6  # of \u00XX
LONG_LINE_BYTES = 16 << 10
"""A longer line is parsed in steps."""
STEP_BYTES = 32 << 10
"""So many bytes of shorter lines are parsed in one step. That is more than one piece of a body brings: to pause would slow it down."""
MAX_MEMBERS = 100
"""Of a line's object. The broker reads three; to pass over 26,000 others took 35 ms."""


class NdjsonBody:
    """One NDJSON body.

    Args:
        topic: where its events go; None takes the topic from each line, which `grant` must allow.
    """

    def __init__(self, topic: str | None, grant: Grant, max_event_bytes: int) -> None:
        self._topic = topic
        self._grant = grant
        self._granted: set[str] = set()
        self._max_event_bytes = max_event_bytes
        self._max_line_bytes = LINE_FACTOR * max_event_bytes + LINE_SLACK_BYTES
        self._rest = bytearray()  # the line that has not ended
        self._is_at_start = True
        self._line_count = 0
        self._step_bytes = 0  # of lines since others had their turn

    def location(self) -> Mapping[str, object]:
        """The number of the current line, from 1, for an error's answer."""
        return {"line": self._line_count + 1}

    def plain_events(self, data: bytes) -> PlainEvents | None:
        """The event that `data` is, if it is one line and follows another. Else None: `items` takes it."""
        if (
            self._rest
            or self._is_at_start
            or data.find(b"\n") != len(data) - 1
            or len(data) > LONG_LINE_BYTES
        ):
            return None
        line = data.strip()
        if not line:
            return None
        topic, lines = self._item(line)
        self._line_count += 1
        return topic, (lines,)

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes. Raises a `BrokerError` at the first bad line."""
        self._step_bytes = 0
        first, *more = data.split(b"\n")
        if more:
            yield from self._decode(bytes(self._rest) + first if self._rest else first)
            for line in more[:-1]:
                yield from self._decode(line)
            self._rest, first = bytearray(), more[-1]
        self._rest += first
        if len(self._rest) > self._max_line_bytes:
            self._fail_too_long()

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept until their line is complete."""
        return len(self._rest)

    def end(self) -> Iterator[Item | None]:
        """The last line, which needs no line end."""
        if self._rest:
            yield from self._decode(bytes(self._rest))

    def _decode(self, line: bytes) -> Iterator[Item | None]:
        if self._is_at_start:
            self._is_at_start = False
            line = line.removeprefix(_BOM)
        line = line.strip()
        self._step_bytes += len(line)
        if self._step_bytes > STEP_BYTES:
            self._step_bytes = len(line)
            yield None
        if len(line) > LONG_LINE_BYTES:
            yield (yield from self._long_item(line))
        elif line:
            yield self._item(line)
        elif self._line_count % LINES_PER_PAUSE == 0:
            yield None
        self._line_count += 1

    def _item(self, line: bytes) -> Item:
        self._check_size(line)
        text, value = _object(line)
        return self._made(value, _data(text, value))

    def _long_item(self, line: bytes) -> Generator[None, None, Item]:
        self._check_size(line)
        value = yield from parse(_decoded(line), _MEMBERS, "data", MAX_MEMBERS)
        data = _member_data(value)
        yield None
        assert isinstance(data, str), "its text was wanted"
        return self._made(value, data)

    def _made(self, value: Mapping[str, Any], text: str) -> Item:
        """The event with these members, and `text` for its data."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise InvalidBody(
                "The line's data contains a lone surrogate; data must be Unicode text."
            ) from None
        if len(data) > self._max_event_bytes:
            raise event_too_large(self._max_event_bytes)
        event_type = value.get("event")
        if event_type is not None:
            if not isinstance(event_type, str):
                raise InvalidParameter("'event' must be a string.")
            check_type(event_type)
        return self._topic or self._line_topic(value), sse.lines(data, event_type)

    def _line_topic(self, value: Mapping[str, Any]) -> str:
        topic = value.get("topic")
        if not isinstance(topic, str):
            raise InvalidTopic("Each line must name its 'topic'.")
        if topic not in self._granted:
            self._grant.check_publish((check_publishable(topic),))
            if len(self._granted) < MAX_GRANTED:
                self._granted.add(topic)
        return topic

    def _check_size(self, line: bytes) -> None:
        """Refuse a line that must be too long when decoded. Parsing 1.5 MB of brackets would take the loop 0.1 s or more.

        All but white space and escapes is in the data, or in the rest of the line's JSON.
        """
        most = self._max_event_bytes + LINE_SLACK_BYTES
        if len(line) <= most:
            return
        if len(line) > self._max_line_bytes:
            self._fail_too_long()
        left = line.translate(None, _UNCOUNTED)  # to count them one by one takes several times as long
        least = len(left) - (ESCAPE_BYTES - 1) * line.count(b"\\u")
        if least > most:
            raise event_too_large(self._max_event_bytes)

    def _fail_too_long(self) -> NoReturn:
        raise TooLarge(f"A line may have at most {self._max_line_bytes} bytes.")


def refuse_constant(_name: str) -> NoReturn:
    """For `parse_constant`: Infinity and NaN are not JSON (RFC 8259 §6)."""
    raise ValueError("not JSON")


_number = len
"""For `parse_int` and `parse_float`: numbers are passed on as text, so their values are never used, and may be too large."""

_decoder = json.JSONDecoder(parse_constant=refuse_constant, parse_int=_number, parse_float=_number)
_scan = json.scanner.make_scanner(cast("Any", _decoder))
_json_string = json.encoder.encode_basestring

_WHITE_SPACE = re.compile(r"[ \t\n\r]*+")
_ANY_WHITE_SPACE = re.compile(r"[ \t\n\r]")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
"""These take what they find for good: to remember where else they could have stopped takes four times as long."""
_STRINGS = re.compile(rf"({_STRING})")
_AFTER_WHITE_SPACE = re.compile(rf"[ \t\n\r]*+((?:[^ \t\n\r\"]++|{_STRING})++)")


def _object(line: bytes) -> tuple[str, dict[str, Any]]:
    """The text of a line, and its object, in which numbers have no meaning."""
    text = _decoded(line)
    try:
        value, end = _scan(text, 0)
    except RecursionError:
        raise InvalidBody("The line's JSON is nested too deeply.") from None
    except (ValueError, StopIteration):
        raise not_json() from None
    if end != len(text) or not isinstance(value, dict):
        raise not_one_object()
    if len(value) > MAX_MEMBERS:
        raise too_many_members(MAX_MEMBERS)
    return text, value


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InvalidBody("The line is not valid UTF-8.") from None


def _member_data(value: Mapping[str, Any]) -> Any:
    if "data" not in value:
        raise InvalidBody("The line's object has no 'data'.")
    return value["data"]


def _data(text: str, value: Mapping[str, Any]) -> str:
    """The line's data: a string as it is, any other value as it was sent, but compact."""
    data = _member_data(value)
    return data if isinstance(data, str) else _compact(_member(text, "data"))


def _member(text: str, name: str) -> str:
    """The text of the last member `name` of the JSON object `text`, which has one and is valid."""
    found = ""
    at = _after_white_space(text, 1)
    left = MAX_MEMBERS  # names may be repeated
    while text[at] != "}":
        left -= 1
        if left < 0:
            raise too_many_members(MAX_MEMBERS)
        key, at = _scan(text, _after_white_space(text, at))
        start = _after_white_space(text, _after_white_space(text, at) + 1)
        _, end = _scan(text, start)
        if key == name:
            found = text[start:end]
        at = _after_white_space(text, end)
        at += text[at] == ","
    return found


def _after_white_space(text: str, at: int) -> int:
    found = _WHITE_SPACE.match(text, at)
    assert found is not None, "it matches the empty text too"
    return found.end()


def _compact(text: str) -> str:
    """A valid JSON value without white space between its tokens, and without needless escapes in its strings."""
    if _ANY_WHITE_SPACE.search(text):
        text = "".join(_AFTER_WHITE_SPACE.findall(text))
    return _unescaped(text) if "\\" in text else text


def _unescaped(text: str) -> str:
    """The strings are decoded as one list: one by one they would take twice as long."""
    parts = _STRINGS.split(text)
    parts[1::2] = map(_json_string, json.loads(f"[{','.join(parts[1::2])}]"))
    return "".join(parts)
