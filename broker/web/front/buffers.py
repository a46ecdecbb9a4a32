"""What a connection needs to know of the transport below it."""

from __future__ import annotations

import asyncio

from broker.web.front.tls_transport import TlsTransport


def is_secure(transport: asyncio.Transport) -> bool:
    """Whether it encrypts."""
    return transport.get_extra_info("sslcontext") is not None


def undecrypted_bytes(transport: object) -> int:
    """How many bytes a transport has received that are not decrypted yet; 0 without TLS."""
    return transport.held_bytes if isinstance(transport, TlsTransport) else 0
