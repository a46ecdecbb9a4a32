"""How a stream began, for the log line at its end.

Rules: shared by the streams that began alike, since each idle stream counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Client(NamedTuple):
    """Where a stream's request came from.

    Attributes:
        address: the IP address; "" if unknown.
        request_id: the id that the client sent, or None.
    """

    address: str = ""
    request_id: str | None = None


class Origin(NamedTuple):
    """Where in the logs a stream began.

    Attributes:
        start: `live`, `cursor`, `since`, `last` or `poll`.
        gap: the reason of the gap that it began with; "" without one.
    """

    start: str = "live"
    gap: str = ""


@lru_cache(maxsize=256)
def client_at(address: str) -> Client:
    """A client that sent no id. Behind proxies many streams have the same address: its text is kept once."""
    return Client(address)


UNKNOWN_CLIENT = Client()
LIVE = Origin()
