"""Requests and answers as plain values: what every handler takes and returns.

Rules: knows no HTTP library. An adapter turns a library's request into a `Request`, calls a handler, and sends the
`Answer` (or starts the `Subscription`, see `subscribe`) that it returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, overload
from urllib.parse import parse_qsl, unquote_to_bytes

from broker.errors import InvalidParameter

JSON: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})


class Headers(Protocol):
    """The headers of a request. Names are case-insensitive, and a name may have several values."""

    def __contains__(self, name: object, /) -> bool: ...

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    def getall(self, name: str, /) -> Sequence[str]:
        """All values of `name`. Raises `KeyError` if there is none."""


class Query:
    """The query of a request, parsed when first used.

    Attributes:
        raw: the text behind the `?`, still percent-encoded; "" if there is none.
    """

    __slots__ = ("_values", "raw")

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self._values: dict[str, list[str]] | None = None

    def __contains__(self, name: str) -> bool:
        return bool(self.getall(name))

    def get(self, name: str) -> str | None:
        """The first value of `name`, or None."""
        if not self.raw:
            return None
        values = self.getall(name)
        return values[0] if values else None

    def getall(self, name: str) -> Sequence[str]:
        """All values of `name`, in order; none if it is absent."""
        if self._values is None:
            self._values = {}
            for key, value in parse_qsl(self.raw, keep_blank_values=True):
                self._values.setdefault(key, []).append(value)
        return self._values.get(name, ())

    def check_utf8(self) -> None:
        """Raises `InvalidParameter` if the percent-encoding does not decode to UTF-8."""
        try:
            unquote_to_bytes(self.raw).decode()
        except UnicodeError:
            raise InvalidParameter("The query's percent-encoding is not valid UTF-8.") from None


class BodySource(Protocol):
    """The body of a request, while it arrives.

    Its methods raise `InvalidBody` if the body breaks its transfer coding, and `ConnectionError` if the client has left.
    """

    @property
    def length(self) -> int | None:
        """Its Content-Length, or None."""

    def arrived(self) -> bytes | None:
        """The whole body if all of it is here, else None and nothing is consumed."""

    async def whole(self, max_bytes: int) -> bytes:
        """The whole body. Raises `TooLarge` as soon as it is longer than `max_bytes`."""

    async def piece(self) -> bytes:
        """The bytes that arrive next, at least one; b"" at the end of the body."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose head has arrived.

    Attributes:
        method: in upper case.
        path: as it was sent, percent-encoded, without the query.
        peer: the IP address at the other end of the connection, "" if unknown. Behind a proxy it is the proxy's.
        path_values: the decoded values of the placeholders in the route's path, such as `topic`.
    """

    method: str
    path: str
    query: Query
    headers: Headers
    peer: str
    body: BodySource
    path_values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. The adapter adds Content-Length, Date and what every answer carries (`headers`).

    Attributes:
        closes: whether the connection ends with this answer.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False


def json_answer(value: object, headers: Mapping[str, str], status: int = 200) -> Answer:
    """An answer whose body is `value` as JSON."""
    headers = {**headers, "Content-Type": "application/json; charset=utf-8"}
    return Answer(status, json.dumps(value).encode(), headers)
