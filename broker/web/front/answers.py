"""Encodes answers for HTTP/1.1 and 1.0."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus

from broker.fanout.chunks import LAST_CHUNK, as_chunk
from broker.web.errors import problem
from broker.web.headers import head_lines
from broker.web.values import JSON, Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD_TOO_SLOW = "The request's head did not arrive in time; send it at once."
OK, CREATED = int(HTTPStatus.OK), int(HTTPStatus.CREATED)
"""To look up a member of an enumeration costs as much as a call, and so does a comparison with one."""
LENGTHLESS = frozenset({204, 304})
"""The statuses of answers with neither a body nor its length (RFC 9110 §8.6)."""

_JSON_LINES = head_lines(JSON)
_CREATED = b"HTTP/1.1 201 Created\r\n%bContent-Length: %d\r\n%b\r\n%b"


def encode(answer: Answer, common_headers: bytes, method: str, version: str, *, closes: bool) -> bytes:
    """The bytes of `answer` to a request of this `method` and `version`; `common_headers` are further lines of its head."""
    status, body = answer.status, answer.body
    if status == CREATED and version == "1.1" and answer.headers is JSON and not closes:
        return _CREATED % (_JSON_LINES, len(body), common_headers, body)
    lines = head_lines({name: value for name, value in answer.headers.items() if name != "Vary"})
    if answer.is_stream and version == "1.1":
        lines += b"Transfer-Encoding: chunked\r\n"
        body = as_chunk(body) + LAST_CHUNK
    elif not answer.is_stream and status not in LENGTHLESS and (body or method != "HEAD"):
        lines += b"Content-Length: %d\r\n" % len(body)
    if closes:
        lines += b"Connection: close\r\n"
    elif version == "1.0":
        lines += b"Connection: keep-alive\r\n"
    return b"%b%b%b\r\n%b" % (
        _status_line(status, version),
        lines,
        common_headers,
        b"" if method == "HEAD" else body,
    )


@lru_cache(maxsize=64)
def _status_line(status: int, version: str) -> bytes:
    return f"HTTP/{version} {status} {HTTPStatus(status).phrase}\r\n".encode()


_PROBLEM = problem("invalid-parameter", "This port speaks TLS; use https:// in the URL.")
NO_TLS = encode(_PROBLEM, b"", "GET", "1.1", closes=True)
"""For a client that speaks HTTP where it has to speak TLS."""
