"""The head of a request: its headers, its target, and what is refused before any handler runs."""

from __future__ import annotations

from collections.abc import Sequence

from broker.web.errors import problem
from broker.web.values import Answer

MAX_HEADERS = 128

_keys: dict[str, bytes] = {}
"""The names that handlers ask for, in lower case."""


def _key(name: str) -> bytes:
    key = _keys[name] = name.lower().encode()
    return key


class RequestHeaders:
    """The headers of one request, decoded when read; see `values.Headers`.

    Attributes:
        fields: the first value of each name, which is in lower case.
        repeated: the further values of a name.
    """

    __slots__ = ("fields", "repeated")

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.repeated: dict[bytes, list[bytes]] | None = None

    def repeat(self, name: bytes, value: bytes) -> None:
        """Add a further value of `name`."""
        if self.repeated is None:
            self.repeated = {}
        self.repeated.setdefault(name, []).append(value)

    def __len__(self) -> int:
        """The number of header lines."""
        return len(self.fields) + sum(map(len, (self.repeated or {}).values()))

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        return (_keys.get(name) or _key(name)) in self.fields

    def get(self, name: str, default: str | None = None) -> str | None:
        value = self.fields.get(_keys.get(name) or _key(name))
        return default if value is None else _text(value)

    def getall(self, name: str) -> Sequence[str]:
        key = _keys.get(name) or _key(name)
        values = [self.fields[key]]
        if self.repeated is not None:
            values += self.repeated.get(key, ())
        return [_text(value) for value in values]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip(" \t")


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
            headers.fields[b"host"] = authority.encode("latin-1")
            text = "/" + (rest if slash else question + query)
    path, _, query = text.partition("?")
    return path, query


def refusal(version: str, headers: RequestHeaders) -> Answer | None:
    """The answer to a request whose version or framing is not supported, after which the connection closes; else None."""
    if version not in ("1.1", "1.0"):
        return problem("invalid-parameter", "This HTTP version is not supported; send HTTP/1.1.")
    fields, repeated = headers.fields, headers.repeated
    if repeated is not None and b"host" in repeated:
        return problem("invalid-parameter", "The request has several Host headers.")
    if len(fields) > MAX_HEADERS or (repeated is not None and len(headers) > MAX_HEADERS):
        return problem("invalid-parameter", f"A request may have at most {MAX_HEADERS} headers.")
    if b"expect" in fields and fields[b"expect"].strip().lower() != b"100-continue":
        return problem("invalid-parameter", "The only Expect that is supported is 100-continue.")
    if b"transfer-encoding" in fields and fields[b"transfer-encoding"].strip().lower() != b"chunked":
        return problem("invalid-body", "The only Transfer-Encoding that is supported is chunked.")
    return None
