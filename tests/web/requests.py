"""Requests as plain values, for tests of handlers without a server."""

from __future__ import annotations

from multidict import CIMultiDict

from broker.web.values import Keep, Listener, Query, Request


class Body:
    """A body that arrives in these pieces; all at once if `has_arrived`."""

    def __init__(self, *pieces: bytes, length: int | None = None, has_arrived: bool = False) -> None:
        self.length = length
        self._pieces = list(pieces)
        self._has_arrived = has_arrived

    def arrived(self) -> bytes | None:
        return b"".join(self._pieces) if self._has_arrived else None

    def take(self) -> bytes | None:
        return self._pieces.pop(0) if self._pieces else b""

    def listen(self, listener: Listener | None, *, coalesced: bool = False) -> None:
        assert listener is None, "`take` always has something"

    def on_left(self, keep: Keep | None) -> None:
        """Its client never leaves."""


def plain_request(
    method: str = "GET",
    target: str = "/",
    *headers: tuple[str, str],
    body: Body | None = None,
    peer: str = "127.0.0.1",
    **path_values: str,
) -> Request:
    """A request for `target`; `path_values` are what the route's placeholders stand for."""
    path, _, query = target.partition("?")
    return Request(
        method,
        path,
        Query(query),
        CIMultiDict(headers),
        peer,
        body or Body(length=0, has_arrived=True),
        path_values,
    )
