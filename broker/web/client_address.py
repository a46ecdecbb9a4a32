"""The address of a client, which may be behind proxies.

Rules: only entries that trusted proxies have added count. A list is read from the right, where the nearest hop writes;
entries that a client has put on the left change nothing.

A proxy writes one of the two headers and passes the other on unchanged, so the operator names the one it writes. If none
is named and both are present and disagree, the address is the proxy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from broker.web.request_headers import Headers

X_FORWARDED_FOR = "X-Forwarded-For"
FORWARDED = "Forwarded"
"""RFC 7239."""
IPV6_PREFIX = 64
"""The least that one customer gets (RFC 6177), with a new address for each request if they like."""
MAX_HOPS = 32
"""So many entries of a header are read, from the right; the address is then the last trusted one among them."""
MAX_PAIRS = 8
"""Likewise of the parameters of an entry."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class ClientAddresses:
    """Finds the address of a request's client.

    Args:
        trusted: the proxies; the client is the nearest address that is not one of them.
        header: the header that the proxies write; None for either.
    """

    def __init__(self, trusted: Sequence[Network], header: str | None = None) -> None:
        self._trusted = tuple(trusted)
        names = (X_FORWARDED_FOR, FORWARDED) if header is None else (header,)
        self._headers = [name.lower() for name in names]

    def of(self, headers: Headers, peer: str) -> str:
        """The key for limits by address: an IPv4 address, or the network of an IPv6 address; "" if unknown. `peer` is the connection's address."""
        address = _parse(peer)
        if address is None:
            return ""
        return _key(self._client(headers, address) if self._trusts(address) else address)

    def client(self, headers: Headers, peer: str) -> str:
        """The whole address of a client, for logs; "" if unknown, as on a unix socket."""
        if not self._trusted and ":" not in peer:
            return peer  # most are, and reading it costs 4 µs
        address = _parse(peer)
        if address is None:
            return ""
        return str(self._client(headers, address) if self._trusts(address) else address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _client(self, headers: Headers, peer: Address) -> Address:
        found = [
            self._nearest(",".join(headers.getall(name)).rsplit(",", MAX_HOPS)[-MAX_HOPS:], peer)
            for name in self._headers
            if name in headers
        ]
        return found[0] if found and all(address == found[0] for address in found) else peer

    def _nearest(self, hops: Sequence[str], peer: Address) -> Address:
        """The last hop that is not trusted. At a malformed hop, the hop after it."""
        nearest = peer
        for hop in reversed(hops):
            address = _parse(_node(hop))
            if address is None:
                return nearest
            if not self._trusts(address):
                return address
            nearest = address
        return nearest


def _node(hop: str) -> str:
    """The address in an element of either header: all of it, or its parameter `for` (RFC 7239 §4).

    Proxies write no comma in quotes, and a client's own elements don't count, so no full parser is needed.
    """
    for pair in hop.split(";", MAX_PAIRS)[:MAX_PAIRS]:
        name, equals, value = pair.strip().partition("=")
        if equals and name.lower() == "for":
            return value
    return "" if "=" in hop else hop.strip()


def _parse(text: str) -> Address | None:
    """An address, perhaps with a port or in brackets (RFC 7239 §6)."""
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


def _key(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((address, IPV6_PREFIX), strict=False))
