"""Bodies that tests send, streamed ones piece by piece, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.event_stream import AsyncStream
from tests.support.http import Answer, read_answer
from tests.support.local_broker import Server

NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"


class StreamedBody:
    """A streamed body that is being sent, in chunks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls, server: Server, target: str = "/topics/a", content_type: str = EVENT_STREAM, **headers: str
    ) -> StreamedBody:
        fields = {
            "host": "localhost",
            "content-type": content_type,
            "transfer-encoding": "chunked",
            "connection": "close",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return cls(*await server.send(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode()))

    async def send(self, *pieces: bytes) -> None:
        """Send each piece as a chunk, all of them in one write."""
        self._writer.write(b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
        await self._writer.drain()

    async def end(self) -> Answer:
        """End the body cleanly; the answer."""
        self._writer.write(b"0\r\n\r\n")
        return await self.answer()

    async def answer(self) -> Answer:
        return await read_answer(self._reader)

    def cut(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


def events(*texts: str) -> bytes:
    """One event of an event stream for each text."""
    return b"".join(f"data: {text}\n\n".encode() for text in texts)


def json_lines(*texts: str) -> bytes:
    """One line of NDJSON for each text."""
    return b"".join(json.dumps({"data": text}).encode() + b"\n" for text in texts)


FORMATS = {EVENT_STREAM: events, NDJSON: json_lines}


async def describe(server: Server, topic: str = "a") -> dict[str, Any]:
    """The topic's JSON representation."""
    return (await server.request("GET", f"/topics/{topic}", accept="application/json")).json()


async def send_part(server: Server, number: int, *texts: str, end: str = "") -> Answer:
    """Send events of producer `p`, the first of which has this sequence number, as a whole body to topic `a`."""
    body = await StreamedBody.open(
        server, f"/topics/a{end and '?end=' + end}", broker_producer="p", broker_sequence=str(number)
    )
    await body.send(events(*texts))
    return await body.end()


async def close_topic(
    server: Server, topic: str, data: str = "", query: str = "?end=true", **headers: str
) -> Answer:
    """Close a topic, with a last event if `data` is not empty; the answer, which is a 201."""
    answer = await server.request("POST", f"/topics/{topic}{query}", data.encode(), **headers)
    assert answer.status == 201, answer
    return answer


async def lines(server: Server, body: str | bytes, target: str = "/topics/news") -> Answer:
    """Publish JSON lines."""
    data = body.encode() if isinstance(body, str) else body
    return await server.request("POST", target, data, content_type=NDJSON)


async def kept(server: Server, topic: str = "news") -> list[tuple[str | None, str]]:
    """What a topic has, as (type, data)."""
    stream = await server.subscribe(f"/topics/{topic}?since=earliest")
    state = (await server.request("GET", f"/topics/{topic}", accept="application/json")).json()
    await stream.until(lambda: len(stream.events) == state["events"])
    return [(event.type, event.data) for event in stream.events]


def told(stream: AsyncStream) -> list[tuple[str | None, str, str]]:
    """Type, topic or data, and id."""
    shown = []
    for event in stream.events:
        own = (event.type or "").startswith("broker.")
        value = json.loads(event.data) if own else {}
        what = value.get("reason") or ",".join(value.get("topics", [])) or event.data
        shown.append((event.type, value.get("topic", "") + what if own else event.data, event.id))
    return shown
