"""What a load generator must see of an HTTP answer: whether it is the one hoped for, and where it ends.

Rules: bytes in, values out; no sockets. It reads no more than it needs: an answer's fields are searched, not parsed.
"""

from __future__ import annotations

import re

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
EVENT_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.IGNORECASE)


def status_line(answer: bytes) -> str:
    """The first line, for a person."""
    return answer.partition(b"\r\n")[0].decode("latin-1")


def is_success(answer: bytes) -> bool:
    """Whether the status is 2xx."""
    return answer[9:10] == b"2"


def is_event_stream(head: bytes) -> bool:
    """Whether the head of an answer is 200 and says text/event-stream."""
    return head[9:12] == b"200" and EVENT_STREAM.search(head) is not None


def answer_end(answer: bytes) -> int:
    """Where the first answer in these bytes ends, 0 if it is not complete. One without a length ends with its head."""
    head_end = answer.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return 0
    length = LENGTH.search(answer, 0, head_end)
    if length is not None:
        end = head_end + int(length[1])
        return end if len(answer) >= end else 0
    if CHUNKED.search(answer, 0, head_end):
        return len(answer) if answer.endswith(b"\r\n0\r\n\r\n") else 0
    return head_end


def error_text(error: OSError) -> str:
    """What went wrong with a connection, without the numbers."""
    return error.strerror or str(error) or type(error).__name__
