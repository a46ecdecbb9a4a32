"""The head of a request: its headers, its target, and the requests that are refused before any handler runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from broker.web.errors import problem
from broker.web.request_measures import RouteMeasure
from broker.web.routes import Handler
from broker.web.values import Answer, Memo, Query, content_length

MAX_HEADERS = 128

_OTHER_TARGET = re.compile(rb"(?i:https?)://(\[[0-9a-fA-F:.]+\]|[^][:@/?#]+)(:[0-9]*)?([/?#]|$)|\*$")
"""The absolute form without user information (RFC 9112 §3.2.2), and the asterisk form."""

NAMES = {
    name.encode(): name.lower()
    for name in [
        "Host",
        "Content-Type",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "Authorization",
        "Cookie",
        "Cache-Control",
        "Last-Event-ID",
        "Origin",
        "Referer",
        "Sec-Fetch-Site",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Dest",
        "Idempotency-Key",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "Forwarded",
    ]
}
"""The names of common headers, as they are usually sent, in lower case."""


def name_of(name: bytes) -> str:
    """The name of a header in lower case."""
    return name.decode("latin-1").lower()


class RequestHeaders(dict[str, str]):
    """The first value of each header of a request, by its name in lower case; see `values.Headers`.

    Attributes:
        repeated: the further values of a name.
    """

    __slots__ = ("repeated",)

    def __init__(self) -> None:
        self.repeated: dict[str, list[str]] | None = None

    def repeat(self, name: str, value: str) -> None:
        """Add a further value of `name`."""
        if self.repeated is None:
            self.repeated = {}
        self.repeated.setdefault(name, []).append(value)

    def getall(self, name: str) -> Sequence[str]:
        """All values of `name`; `KeyError` if it is absent."""
        first = self[name]
        return (first,) if self.repeated is None else (first, *self.repeated.get(name, ()))

    def count(self) -> int:
        """The number of header lines."""
        return len(self) + sum(map(len, (self.repeated or {}).values()))


class Head:
    """The head of a request. Nothing in it changes, so all requests with the same bytes may share it (`known_heads`).

    Attributes:
        target: as it was sent.
        keeps_alive: whether the client allows a further request on the connection.
        refusal: the answer, if no handler shall run.
        length, origin: its Content-Length and Origin, or None.
        route: how the front serves it, found when first needed.
    """

    __slots__ = (
        "headers",
        "keeps_alive",
        "length",
        "method",
        "origin",
        "refusal",
        "route",
        "target",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        version: str,
        headers: RequestHeaders,
        *,
        keeps_alive: bool,
        refusal: Answer | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.keeps_alive = keeps_alive
        self.refusal = refusal
        self.length = content_length(headers)
        self.origin = headers.get("origin")
        self.route: Routed | None = None


class Routed:
    """What serves the requests with one head.

    Attributes:
        handler: or the answer, if it needs no handler.
        path: below the base path.
        measure, statuses: of the route.
        path_values, memo: see `values.Request`.
        needs_peer: whether the handler needs the client's address, even without limits by address.
    """

    __slots__ = ("handler", "measure", "memo", "needs_peer", "path", "path_values", "query", "statuses")

    def __init__(
        self,
        handler: Handler | Answer,
        path: str,
        query: Query,
        path_values: Mapping[str, str],
        measure: RouteMeasure,
        *,
        needs_peer: bool,
    ) -> None:
        self.handler = handler
        self.measure = measure
        self.statuses = measure.statuses
        self.path = path
        self.query = query
        self.path_values = path_values
        self.memo = Memo()
        self.needs_peer = needs_peer


def split_target(target: bytes, headers: RequestHeaders) -> tuple[str, str]:
    """The path and the query of a request's target, percent-encoded.

    An absolute form (RFC 9112 §3.2.2) names the host, which then takes the place of the header.
    """
    text = target.decode("latin-1")
    if "#" in text:
        text = text.partition("#")[0]
    if text[:1] != "/":
        scheme, separator, rest = text.partition("://")
        if separator and scheme.lower() in ("http", "https"):
            authority, slash, rest = rest.partition("/")
            authority, question, query = authority.partition("?")
            headers["host"] = authority
            text = "/" + (rest if slash else question + query)
    path, _, query = text.partition("?")
    return path, query


def head_size(headers: RequestHeaders) -> int:
    """About how many bytes the headers have."""
    size = sum(len(name) + len(value) + 4 for name, value in headers.items())
    for name, values in (headers.repeated or {}).items():
        size += sum(len(name) + len(value) + 4 for value in values)
    return size


def refusal(method: str, target: bytes, version: str, headers: RequestHeaders) -> Answer | None:
    """The answer to a request that no handler must see, after which the connection closes; else None."""
    if method == "CONNECT":
        return problem("invalid-parameter", "The broker is not a proxy.")
    if target[:1] != b"/" and not _OTHER_TARGET.match(target):
        return problem("invalid-parameter", "The request's target is malformed.")
    if version not in ("1.1", "1.0"):
        return problem("invalid-parameter", "This HTTP version is not supported; send HTTP/1.1.")
    if (version == "1.1" and "host" not in headers) or (headers.repeated and "host" in headers.repeated):
        return problem("invalid-parameter", "A request needs one Host header.")
    if len(headers) > MAX_HEADERS or (headers.repeated is not None and headers.count() > MAX_HEADERS):
        return problem("invalid-parameter", f"A request may have at most {MAX_HEADERS} headers.")
    if "expect" in headers and headers["expect"].strip().lower() != "100-continue":
        return problem("invalid-parameter", "The only Expect that is supported is 100-continue.")
    if "transfer-encoding" in headers and (
        headers["transfer-encoding"].strip().lower() != "chunked"
        or (headers.repeated and "transfer-encoding" in headers.repeated)
    ):
        return problem("invalid-body", "The only Transfer-Encoding that is supported is chunked.")
    return None
