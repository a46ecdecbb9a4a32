"""The chunks of an HTTP/1.1 body (RFC 9112 §7.1).

Rules: bytes only. Feeds make the chunk around a piece once for all its readers (I5).

Without chunks, clients that read a body by chunk (Python's requests and urllib3) wait until their buffer is full, and to
clients, a stream that was cut looks like one that ended.
"""

from __future__ import annotations

from broker import sse

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a body that is complete."""


def as_chunk(data: bytes) -> bytes:
    """`data` as one chunk. It must not be empty: an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


HEARTBEAT_CHUNK = as_chunk(sse.HEARTBEAT)
