"""Reads as much of an HTTP response as a load generator needs: its status, its type and where it ends.

Rules: bytes in, values out; no sockets. Headers are searched for, not parsed.
"""

from __future__ import annotations

import re

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
EVENT_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)


def status_line(response: bytes) -> str:
    """The first line."""
    return response.partition(b"\r\n")[0].decode("latin-1")


def is_success(response: bytes) -> bool:
    """Whether the status is 2xx."""
    return response[9:10] == b"2"


def is_event_stream(head: bytes) -> bool:
    """Whether the status is 200 and the type is text/event-stream."""
    return head[9:12] == b"200" and EVENT_STREAM.search(head) is not None


def response_end(data: bytes) -> int:
    """The length of the first response in `data`; 0 if it is incomplete. Without a length or chunks it is only a head."""
    head_end = data.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return 0
    length = LENGTH.search(data, 0, head_end)
    if length is not None:
        end = head_end + int(length[1])
        return end if len(data) >= end else 0
    if CHUNKED.search(data, 0, head_end):
        return len(data) if data.endswith(b"\r\n0\r\n\r\n") else 0
    return head_end


def error_text(error: OSError) -> str:
    """Why a connection failed, without the error number."""
    return error.strerror or str(error) or type(error).__name__
