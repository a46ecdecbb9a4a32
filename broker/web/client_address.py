"""Where a request comes from, behind proxies too.

Rules: only what a trusted proxy says is believed, and only the part that it, or one before it that is trusted, has added:
the lists are read from the right, where the nearest hop writes. What a client has put on the left of them changes nothing,
be it well-formed or not.

A proxy writes one of the two headers and passes the other on as it came. So the operator names the one; where none is named
and both are there and disagree, neither is believed, and who has sent one of them counts as the proxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

X_FORWARDED_FOR = "X-Forwarded-For"
FORWARDED = "Forwarded"
"""RFC 7239."""
IPV6_PREFIX = 64
"""What one customer gets at least (RFC 6177): within it whoever likes takes another address for each request."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class ClientAddresses:
    """Tells where requests come from.

    Args:
        trusted: the proxies that are believed; the client is who is not one of them.
        header: the one that they write; None for either.
    """

    def __init__(self, trusted: Sequence[Network], header: str | None = None) -> None:
        self._trusted = tuple(trusted)
        self._headers = (X_FORWARDED_FOR, FORWARDED) if header is None else (header,)

    def of(self, request: web.BaseRequest) -> str:
        """What the client is counted under: an IPv4 address, or the network of an IPv6 one; "" where nobody knows."""
        peer = _parsed(request.remote or "")
        if peer is None:
            return ""
        return _shown(self._client(request, peer) if self._trusts(peer) else peer)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _client(self, request: web.BaseRequest, peer: Address) -> Address:
        told = [
            self._nearest(",".join(request.headers.getall(name)).split(","), peer)
            for name in self._headers
            if name in request.headers
        ]
        return told[0] if told and all(address == told[0] for address in told) else peer

    def _nearest(self, hops: Sequence[str], peer: Address) -> Address:
        """The last one that isn't trusted; or the one before what is no address, for a hop may hide it."""
        last = peer
        for hop in reversed(hops):
            address = _parsed(_node(hop))
            if address is None:
                return last
            if not self._trusts(address):
                return address
            last = address
        return last


def _node(hop: str) -> str:
    """The address in an element of either header: all of it, or its parameter `for` (RFC 7239 §4).

    An element that a proxy writes has no comma in its quotes, and what a client has written isn't worth a parser.
    """
    for pair in hop.split(";"):
        name, equals, value = pair.strip().partition("=")
        if equals and name.lower() == "for":
            return value
    return "" if "=" in hop else hop.strip()


def _parsed(text: str) -> Address | None:
    """An address, perhaps with a port, or in brackets (RFC 7239 §6)."""
    text = text.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _shown(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((address, IPV6_PREFIX), strict=False))
