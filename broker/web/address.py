"""Where a request comes from, behind proxies too.

Rules: only what a trusted proxy says is believed, and only the part that it, or one before it that is trusted, has added:
the lists are read from the right, where the nearest hop writes. What a client has put on the left of them changes nothing.
A proxy writes one of the two headers and passes the other on as it came, so where both are there and disagree neither is
believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

X_FORWARDED_FOR = "X-Forwarded-For"
IPV6_PREFIX = 64
"""What one customer gets at least (RFC 6177): within it whoever likes takes another address for each request."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Addresses:
    """Tells where requests come from.

    Args:
        trusted: the proxies that are believed; the client is who is not one of them.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: web.BaseRequest) -> str:
        """What the client is counted under: an IPv4 address, or the network of an IPv6 one; "" where nobody knows."""
        peer = _parsed(request.remote or "")
        if peer is None:
            return ""
        return _shown(self._client(request, peer) if self._trusts(peer) else peer)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _client(self, request: web.BaseRequest, peer: Address) -> Address:
        told = []
        if X_FORWARDED_FOR in request.headers:
            hops = ",".join(request.headers.getall(X_FORWARDED_FOR)).split(",")
            told.append(self._nearest(hops, peer))
        forwarded = request.forwarded  # RFC 7239
        if forwarded:
            told.append(self._nearest([hop.get("for", "") for hop in forwarded], peer))
        return told[0] if told and all(address == told[0] for address in told) else peer

    def _nearest(self, hops: Sequence[str], peer: Address) -> Address:
        """The last one that isn't trusted; or the one before what is no address, for a hop may hide it."""
        last = peer
        for hop in reversed(hops):
            address = _parsed(hop.strip())
            if address is None:
                return last
            if not self._trusts(address):
                return address
            last = address
        return last


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
