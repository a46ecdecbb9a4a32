"""The PROXY protocol: a header before all other bytes in which a proxy names the client (haproxy.org, proxy-protocol.txt, 2.2 and 2.3).

Rules: bytes only. The only library for it, proxy-protocol, reads from asyncio's streams and has had no release since 2024.
"""

from __future__ import annotations

from ipaddress import ip_address

MAX_V1_BYTES = 107
MAX_V2_BYTES = 4096
"""With its extensions (TLVs), of which common proxies send less than 600 bytes."""

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES = 16
_V2_ADDRESS_BYTES = {0x11: 4, 0x21: 16}
"""By family and transport: TCP over IPv4, TCP over IPv6."""
_V1_VERSIONS = {b"TCP4": 4, b"TCP6": 6}


class BadHeader(ValueError):
    """The bytes are not a PROXY header."""


def header_bytes(data: bytes) -> int | None:
    """The length of the header that `data` begins with, once known; else None.

    Raises:
        BadHeader: no header begins so, or it is too long.
    """
    if data.startswith(_V2_START):
        if len(data) < _V2_FIXED_BYTES:
            return None
        length = _V2_FIXED_BYTES + int.from_bytes(data[14:16])
        if length > MAX_V2_BYTES:
            raise BadHeader(f"it has {length} bytes")
        return length
    if data.startswith(_V1_START):
        end = data.find(b"\n", 0, MAX_V1_BYTES)
        if end < 0 and len(data) >= MAX_V1_BYTES:
            raise BadHeader("its line does not end")
        return end + 1 if end >= 0 else None
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise BadHeader("there is none")


def client_address(header: bytes) -> str:
    """The client's IP address in a whole header; "" if it names none, as in a proxy's own health check.

    Raises:
        BadHeader: it is malformed.
    """
    return _v2_address(header) if header.startswith(_V2_START) else _v1_address(header)


def _v1_address(header: bytes) -> str:
    if not header.endswith(b"\r\n"):
        raise BadHeader("its line does not end with CRLF")
    parts = header[:-2].split(b" ")
    if parts[1] == b"UNKNOWN":
        return ""
    version = _V1_VERSIONS.get(parts[1])
    if version is None or len(parts) != 6 or not all(_is_port(port) for port in parts[4:]):
        raise BadHeader("its line is malformed")
    try:
        source, target = (ip_address(part.decode("ascii")) for part in parts[2:4])
    except ValueError:
        raise BadHeader("its addresses are malformed") from None
    if {source.version, target.version} != {version}:
        raise BadHeader("its addresses are of another family")
    return str(source)


def _is_port(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF


def _v2_address(header: bytes) -> str:
    version, command = header[12] >> 4, header[12] & 15
    if version != 2 or command > 1:
        raise BadHeader("its version or command is unknown")
    size = _V2_ADDRESS_BYTES.get(header[13])
    if command == 0 or size is None:  # LOCAL, or a family without IP addresses
        return ""
    addresses = header[_V2_FIXED_BYTES:]
    if len(addresses) < 2 * size + 4:
        raise BadHeader("its addresses are cut")
    return str(ip_address(addresses[:size]))
