"""Decodes a body of JSON lines (contract §2): one object a line, with `data`, and optionally `event` and `topic`.

Rules: bytes in, `(topic, lines)` items out, lazily, so that the events before a bad line are published. No I/O.
"""

from __future__ import annotations

import json
import json.scanner
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, cast

from broker import sse
from broker.auth.grants import Grant
from broker.errors import InvalidBody, InvalidParameter, InvalidTopic, TooLarge
from broker.stores.base import Item
from broker.topics import check_publishable, check_type
from broker.web.errors import event_too_large

MAX_GRANTED = 1000  # topics remembered as allowed
LINES_PER_PAUSE = 128
LINE_FACTOR = 6  # a character of data may be written as \u00XX
LINE_SLACK_BYTES = 4096  # for the rest of a line's JSON
ESCAPE_BYTES = 6  # of \u00XX

_NESTED_TOO_DEEPLY = "The line's JSON is nested too deeply."


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
        self._line_count = 0

    def location(self) -> Mapping[str, object]:
        """The number of the current line, from 1, for an error's answer."""
        return {"line": self._line_count + 1}

    def items(self, data: bytes) -> Iterator[Item | None]:
        """The events that `data` completes. Raises a `BrokerError` at the first bad line."""
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
        line = line.strip()
        if line:
            yield self._item(line)
        elif self._line_count % LINES_PER_PAUSE == 0:
            yield None
        self._line_count += 1

    def _item(self, line: bytes) -> Item:
        self._check_size(line)
        value = _object(line)
        try:
            data = _data(value)
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
        least = (
            len(line)
            - (ESCAPE_BYTES - 1) * line.count(b"\\u")
            - line.count(b"\\")
            - line.count(b" ")
            - line.count(b"\t")
        )
        if least > most:
            raise event_too_large(self._max_event_bytes)

    def _fail_too_long(self) -> NoReturn:
        raise TooLarge(f"A line may have at most {self._max_line_bytes} bytes.")


def refuse_constant(_name: str) -> NoReturn:
    """For `parse_constant`: Infinity and NaN are not JSON (RFC 8259 §6)."""
    raise ValueError("not JSON")


_decoder = json.JSONDecoder(parse_constant=refuse_constant)
_scan = json.scanner.make_scanner(cast("Any", _decoder))
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
        value, end = _scan(text, 0)
    except UnicodeDecodeError:
        raise InvalidBody("The line is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidBody(_NESTED_TOO_DEEPLY) from None
    except (ValueError, StopIteration):
        raise InvalidBody("The line is not JSON.") from None
    if end != len(text) or not isinstance(value, dict):
        raise InvalidBody('The line is not one JSON object; send {"data": …} on each line.')
    return value


def _data(value: dict[str, Any]) -> bytes:
    if "data" not in value:
        raise InvalidBody("The line's object has no 'data'.")
    data = value["data"]
    if isinstance(data, str):
        return data.encode()
    try:
        return _compact(data).encode()
    except RecursionError:
        raise InvalidBody(_NESTED_TOO_DEEPLY) from None
    except UnicodeEncodeError:
        raise
    except ValueError:
        raise InvalidBody("The line contains a number that JSON can't express.") from None
