"""Requests and answers as plain values, without an HTTP library.

Rules: an adapter makes the `Request`, calls a handler, and sends its `Answer` or starts its `Subscription` (`subscribe`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from broker.auth.grants import Caller
from broker.errors import InvalidParameter
from broker.web.request_headers import Headers

MAX_PARAMETERS = 128
"""Of one query; to parse so many takes 0.1 ms, and 0.5 ms if all of them is percent-encoded."""

NO_VALUES: Mapping[str, str] = MappingProxyType({})
JSON: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})


class Query:
    """The query of a request, parsed when first used: that raises `InvalidParameter` for more than `MAX_PARAMETERS`.

    Attributes:
        raw: the text after `?`, percent-encoded.
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
        """All values of `name`, in order."""
        return self._parsed().get(name, ())

    def names(self) -> Iterable[str]:
        """Each name once, in order."""
        return self._parsed().keys()

    def _parsed(self) -> Mapping[str, list[str]]:
        if self._values is None:
            if self.raw.count("&") >= MAX_PARAMETERS:
                raise InvalidParameter(f"A query may have at most {MAX_PARAMETERS} parameters.")
            self._values = {}
            for key, value in parse_qsl(self.raw, keep_blank_values=True):
                self._values.setdefault(key, []).append(value)
        return self._values

    def check_utf8(self) -> None:
        """Raises `InvalidParameter` if the query is not UTF-8."""
        try:
            unquote_to_bytes(self.raw).decode()
        except UnicodeError:
            raise InvalidParameter("The query's percent-encoding is not valid UTF-8.") from None


def content_length(headers: Headers) -> int | None:
    """The Content-Length of a request with a valid one, or None."""
    digits = headers.get("content-length")
    return None if digits is None else int(digits.lstrip("0") or 0)  # `int` refuses thousands of zeros


Listener = Callable[[bytes | None], bool]
"""Is told that something has arrived. If it returns True it has used the piece that it was given, if any; else `BodySource.take` has
what is new. It must not raise."""


Keep = Callable[[int], bool]
"""Whether to keep so many bytes of a body; if not, they are dropped, and the body has no end. It must not raise."""


class BodySource(Protocol):
    """The body of a request, as it arrives.

    Its methods raise `InvalidBody` if the transfer coding is malformed, and `ConnectionError` if the client has left.
    """

    @property
    def length(self) -> int | None:
        """The body's Content-Length, or None."""

    def arrived(self) -> bytes | None:
        """The whole body if it has arrived, else None."""

    def take(self) -> bytes | None:
        """The bytes that have arrived since the last call: b"" at the end, None if there are none yet."""

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        """Call `listener` whenever bytes, the end or a fault may have arrived; None ends that.

        If `coalesced`, pieces of a body without a length may wait for a moment, so that several bodies share a wake-up of the loop.
        """

    def on_left(self, keep: Keep | None) -> None:
        """If the client leaves, ask `keep` about the bytes that have arrived and were not taken; None ends that."""


class Memo:
    """What a handler has found out from the head of a request and the settings alone.

    The next request with the same head may have the same memo (`front.known_heads`).
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = None


class Request:
    """A request after its head has arrived. It is written out, as one is made for each event: a frozen dataclass costs three times as much.

    Attributes:
        path: percent-encoded, without the query.
        peer: the IP address of the client or its nearest proxy; "" if unknown.
        path_values: decoded values for the placeholders of the route, such as `topic`.
        version: of HTTP: "1.1" or "1.0".
        memo: for the handler.
        caller: as the authenticator found it; None before, and for one without a token if no limit needs its address.
    """

    __slots__ = (
        "body",
        "caller",
        "headers",
        "memo",
        "method",
        "path",
        "path_values",
        "peer",
        "query",
        "version",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: Query,
        headers: Headers,
        peer: str,
        body: BodySource,
        path_values: Mapping[str, str] = NO_VALUES,
        version: str = "1.1",
        memo: Memo | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.peer = peer
        self.body = body
        self.path_values = path_values
        self.version = version
        self.memo = memo or Memo()
        self.caller: Caller | None = None


class Answer:
    """A whole answer. The adapter adds Content-Length, Date and the common headers (`headers`). Written out as `Request` is.

    Attributes:
        closes: whether the connection closes after it.
        is_stream: whether `body` is a whole event stream: chunked on HTTP/1.1, without a length or chunks on HTTP/1.0.
    """

    __slots__ = ("body", "closes", "headers", "is_stream", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] = NO_VALUES,
        closes: bool = False,
        is_stream: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.closes = closes
        self.is_stream = is_stream


def json_answer(value: object, headers: Mapping[str, str], status: int = 200) -> Answer:
    """An answer with `value` as JSON."""
    headers = {**headers, "Content-Type": "application/json; charset=utf-8"}
    return Answer(status, json.dumps(value).encode(), headers)
