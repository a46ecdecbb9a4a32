"""The buffers of a connection's transport: small ones, and the connection learns of each rest that is left in them (I4)."""

from __future__ import annotations

import asyncio
from typing import Any

PIECE_BYTES = 32 << 10
MAX_UNREAD_BYTES = 16 << 10
"""Of encrypted bytes, while reading is paused. TLS alone would keep 256 KiB. A record has at most so many."""


def limit_buffers(transport: Any) -> None:
    """Have `transport`, an `asyncio.Transport`, pause its protocol as soon as a write leaves a rest."""
    if is_secure(transport):
        transport.set_read_buffer_limits(high=MAX_UNREAD_BYTES)
        transport.set_write_buffer_limits(high=1, low=0)
    else:
        transport.set_write_buffer_limits(high=0)


def is_secure(transport: asyncio.Transport) -> bool:
    """Whether it encrypts."""
    return transport.get_extra_info("sslcontext") is not None


def write_in_pieces(transport: asyncio.Transport, data: bytes) -> None:
    """Write `data`, of more than `PIECE_BYTES`.

    TLS passes on all of a write to the transport below it and reports none of it as a rest, however much is left there. Only the
    next write is kept back then.
    """
    if not is_secure(transport):
        transport.write(data)
        return
    for first in range(0, len(data), PIECE_BYTES):
        transport.write(data[first : first + PIECE_BYTES])
