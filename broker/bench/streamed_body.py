"""One streamed body of NDJSON lines, prepared in advance and sent as fast as the server takes them.

Rules: one connection, one request; backpressure is TCP's. The lines carry no time stamp, because they are made before they are
sent: such a run measures how many events are published and delivered, not their latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass

from broker.bench import stamps
from broker.bench.plan import Load, Target
from broker.bench.responses import error_text, is_success, status_line

RESPONSE_SECONDS = 30.0
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class StreamResult:
    """How many events one body published; `failure` is empty if the status was 2xx."""

    published: int
    failure: str


def chunk_of(size: int) -> tuple[bytes, int]:
    """A chunk of a chunked body, full of lines with `size` bytes of data; and the number of its lines."""
    line = json.dumps({"data": stamps.data(size, 0).decode()}).encode() + b"\n"
    lines = max(1, CHUNK_BYTES // len(line))
    return b"%x\r\n%b\r\n" % (lines * len(line), line * lines), lines


async def publish(load: Load, target: Target, seconds: float) -> StreamResult:
    """Stream lines for `seconds`, end the body, and wait for the response."""
    try:
        sent, response = await exchange(load, target, seconds)
    except TimeoutError:
        return StreamResult(0, "no response to the streamed body")
    except OSError as error:
        return StreamResult(0, error_text(error))
    if not is_success(response):
        return StreamResult(
            published_count(response, 0), status_line(response) or "closed without a response"
        )
    return StreamResult(published_count(response, sent), "")


async def exchange(load: Load, target: Target, seconds: float) -> tuple[int, bytes]:
    """Send the request; return the number of lines and the response."""
    chunk, lines = chunk_of(load.size)
    sent = 0
    reader, writer = await asyncio.open_connection(target.host, target.port)
    with contextlib.closing(writer):
        more = ("Content-Type: application/x-ndjson", "Transfer-Encoding: chunked", "Connection: close")
        writer.write(target.head("POST", 0, *more))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            writer.write(chunk)
            sent += lines
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return sent, await asyncio.wait_for(reader.read(), RESPONSE_SECONDS)


def published_count(response: bytes, default: int) -> int:
    """`published` from the JSON of a response; `default` if it is missing."""
    try:
        body = json.loads(response.partition(b"\r\n\r\n")[2])
    except ValueError:
        return default
    return int(body["published"]) if isinstance(body, dict) and "published" in body else default
