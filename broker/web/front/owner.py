"""What connections need of the front."""

from __future__ import annotations

from typing import Protocol, TypeVar

from broker.web.connection_timeouts import ConnectionTimeouts
from broker.web.front.exchange import Exchange
from broker.web.front.known_heads import KnownHeads
from broker.web.front.lingering import Lingering
from broker.web.front.unread import UnreadBytes
from broker.web.front.unserved import UnservedBytes

C = TypeVar("C")
"""The connection."""


class ConnectionOwner(Protocol[C]):
    """The front."""

    timeouts: ConnectionTimeouts
    max_head_bytes: int
    known_heads: KnownHeads
    unserved: UnservedBytes
    unread: UnreadBytes
    connections: set[C]
    lingering: set[Lingering]

    def serve(self, connection: C, exchange: Exchange) -> None:
        """Have the request's handler run. `answered`, `take_transport` or `leave` follows, now or later."""

    def closed(self, connection: C | Lingering) -> None:
        """The connection is gone, or has another protocol."""


class TlsOwner(Protocol[C]):
    """The front, for a connection with TLS."""

    timeouts: ConnectionTimeouts
    unserved: UnservedBytes
    handshakes: set[C]

    def handshake_ended(self, connection: C) -> None:
        """Its handshake is complete, or it has ended before that."""
