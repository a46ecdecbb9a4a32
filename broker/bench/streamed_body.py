"""One streamed body: NDJSON lines, made up front, sent as fast as the server takes them.

Rules: one connection, one request; backpressure is TCP's. The lines carry no stamp, since they are made before they are
sent: such a run measures events published and delivered, not their age.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass

from broker.bench import marks
from broker.bench.answers import error_text, is_success, status_line
from broker.bench.plan import Load, Target

ANSWER_SECONDS = 30.0
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """What came of one body; `failure` is empty where it was answered 2xx."""

    published: int
    failure: str


def block(size: int) -> tuple[bytes, int]:
    """A chunk of a chunked body, full of lines with `size` bytes of data, and how many they are."""
    line = json.dumps({"data": marks.data(size, 0).decode()}).encode() + b"\n"
    lines = max(1, BLOCK_BYTES // len(line))
    return b"%x\r\n%b\r\n" % (lines * len(line), line * lines), lines


async def publish(load: Load, at: Target, seconds: float) -> Body:
    """Stream lines for so long, end the body, and wait for its answer."""
    try:
        sent, answer = await exchange(load, at, seconds)
    except TimeoutError:
        return Body(0, "no answer to the streamed body")
    except OSError as error:
        return Body(0, error_text(error))
    if not is_success(answer):
        return Body(published(answer, 0), status_line(answer) or "closed without an answer")
    return Body(published(answer, sent), "")


async def exchange(load: Load, at: Target, seconds: float) -> tuple[int, bytes]:
    """How many lines were sent, and the answer."""
    chunk, lines = block(load.size)
    sent = 0
    reader, writer = await asyncio.open_connection(at.host, at.port)
    with contextlib.closing(writer):
        more = ("Content-Type: application/x-ndjson", "Transfer-Encoding: chunked", "Connection: close")
        writer.write(at.head("POST", 0, *more))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            writer.write(chunk)
            sent += lines
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return sent, await asyncio.wait_for(reader.read(), ANSWER_SECONDS)


def published(answer: bytes, otherwise: int) -> int:
    """The answer's own `published`, where its body is JSON that has one."""
    try:
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
    except ValueError:
        return otherwise
    return int(said["published"]) if isinstance(said, dict) and "published" in said else otherwise
