"""The line of each stream that closes, and of each gap."""

from __future__ import annotations

import asyncio
import logging

import pytest

from broker.events import parse_id
from broker.reports import BURST_SECONDS
from tests.support.local_broker import Serve, Server
from tests.support.log_lines import lines
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker")


async def closed(server: Server, caplog: pytest.LogCaptureFixture, count: int = 1) -> list[dict[str, object]]:
    """The lines of the closed streams, once there are so many."""
    await until(lambda: len(lines(caplog, "stream closed")) >= count, "the line of a closed stream")
    return lines(caplog, "stream closed")


def opening_bytes(received: bytes) -> int:
    """The size of the head and of the first chunk: `retry:`, the first heartbeat and `broker.open`."""
    head, blank_line, body = received.partition(b"\r\n\r\n")
    digits, line_end, _ = body.partition(b"\r\n")
    return len(head + blank_line + digits + line_end) + int(digits, 16) + len(b"\r\n")


async def test_the_line_of_a_stream(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    reader, _ = await server.send(
        b"GET /topics?topic=a&topic=b HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: mine\r\n\r\n"
    )
    await until(lambda: server.subscribers_of("b"), "the stream")
    await server.publish("a", "one")
    await server.publish("b", "two")
    for topic in "ab":
        await server.request("POST", f"/topics/{topic}?end=true", b"")
    received = await reader.read()
    (line,) = await closed(server, caplog)
    age, cursor = line.pop("age"), line.pop("cursor")
    assert isinstance(age, float)
    assert age >= 0
    assert parse_id(str(cursor)) is not None
    assert line == {
        "reason": "ended",
        "topics": ("a", "b"),
        "address": "127.0.0.1",
        "events": 4,
        "bytes": len(received) - opening_bytes(received),
        "start": "live",
        "request_id": "mine",
    }


@pytest.mark.parametrize(
    ("query", "start", "gap", "events"),
    [
        ("", "live", None, 0),
        ("?since=earliest", "since", None, 3),
        ("?last=2", "last", None, 2),
        ("?lastEventId=nonsense", "cursor", "unknown-id", 3),
        ("?lastEventId=1-0", "cursor", "lost", 3),
    ],
)
async def test_how_it_began(
    server: Server, caplog: pytest.LogCaptureFixture, query: str, start: str, gap: str | None, events: int
) -> None:
    for number in range(3):
        await server.publish("a", str(number))
    stream = await server.subscribe(f"/topics/a{query}")
    await stream.data(events)
    await stream.close()
    (line,) = await closed(server, caplog)
    assert (line["start"], line.get("gap"), line["events"]) == (start, gap, events)
    gaps = [(one["reason"], one["topics"], one["subscribers"]) for one in lines(caplog, "gap")]
    assert gaps == ([] if gap is None else [(gap, ("a",), 1)])


async def test_a_stream_that_lags_counts_each_byte_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the socket, the transport's buffer and the batches that follow."""
    server = await serve(retention_bytes=1 << 24)
    reader, _ = await server.send(b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: server.subscribers_of("a"), "the stream")
    text, events = "x" * 200_000, 0
    while not server.node.streams.hub.lagging:  # the client doesn't read, so its buffers fill
        await server.publish("a", text)
        events += 1
    await server.publish("a?end=true", text)
    received = await reader.read()
    (line,) = await closed(server, caplog)
    assert (line["reason"], line["events"]) == ("ended", events + 2)
    assert line["bytes"] == len(received) - opening_bytes(received)


async def test_the_subject(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(jwt_secrets=[SECRET])
    token = HMAC.token(subscribe=["a"], sub="ann")
    stream = await server.subscribe("/topics/a", authorization=f"Bearer {token}")
    await stream.close()
    (line,) = await closed(server, caplog)
    assert (line["subject"], line["reason"]) == ("ann", "client")


async def test_a_long_poll_has_its_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    answering = asyncio.ensure_future(server.request("GET", "/topics/a/events?wait=30s"))
    await until(lambda: server.subscribers_of("a"), "the poll waits")
    await server.publish("a", "x")
    assert (await answering).status == 200
    (line,) = await closed(server, caplog)
    assert (line["reason"], line["start"], line["topics"]) == ("answered", "poll", ("a",))


async def test_a_drain_of_many_streams_is_summed_up(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    streams, per_second = 60, 2
    server = await serve(log_lines_per_second=per_second, drain_seconds=0.2)
    for _ in range(streams):
        await server.subscribe("/topics/a")
    await server.node.streams.drain()
    await until(lambda: not len(server.node.streams), "all streams have closed")
    server.node.reporter.close()
    written = len(lines(caplog, "stream closed"))
    assert per_second * BURST_SECONDS <= written < streams
    (left_out,) = lines(caplog, "log lines left out")
    assert (left_out["kind"], left_out["reason"]) == ("stream closed", "draining")
    assert written + int(str(left_out["count"])) == streams
