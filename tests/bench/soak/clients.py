"""The load: clients of every kind, each a coroutine that goes on until it is cancelled.

Rules: refusals and lost connections belong to the load: a client counts them and comes back. What a client keeps is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.bench.soak.samples import stamp
from tests.support.http import HOST, Answer, read_answer, request

TOPICS = tuple(f"soak.{number}" for number in range(20))
TOKEN_TOPICS = 200
RETRY_SECONDS = 0.5
READ_BYTES = 1 << 16
ANSWER_SECONDS = 20.0
PADDING = "x" * 150
LATENCIES = 20_000
FATES = ("ends", "ends", "ends", "cut", "cancelled")
"""How a token stream may end."""
_DATA = re.compile(rb"^data: (\d+\.\d+) ", re.MULTILINE)
_ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Load:
    """What the clients share.

    Attributes:
        measured, other: the ports of the two brokers.
        latencies: from sending an event until a reader has it, in seconds; of the measured broker.
        counts: requests and events, by kind.
    """

    measured: int
    other: int
    chance: random.Random
    latencies: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def any_port(self) -> int:
        return self.chance.choice((self.measured, self.other))


async def stream(
    load: Load, port: int, target: str, seconds: float, *, cursor: str = "", is_timed: bool = False
) -> str:
    """Read a stream for so long, or until it ends; returns the cursor."""
    head = f"GET {target} HTTP/1.0\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n"
    if cursor:
        head += f"Last-Event-ID: {cursor}\r\n"
    reader, writer = await asyncio.open_connection(HOST, port)
    rest = b""
    try:
        writer.write(f"{head}\r\n".encode())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await reader.read(READ_BYTES):
                    whole, _, rest = (rest + data).rpartition(b"\n\n")
                    load.counts["events received"] += whole.count(b"\ndata: ")
                    if is_timed and len(load.latencies) < LATENCIES:
                        now = time.monotonic()
                        load.latencies += [now - float(sent) for sent in _DATA.findall(whole)]
                    ids = _ID.findall(whole)
                    cursor = ids[-1].decode() if ids else cursor
    finally:
        writer.transport.abort()
    return cursor


async def staying(load: Load, port: int, topic: str, *, is_timed: bool) -> None:
    """A stream for the whole run, which comes back with its cursor."""
    cursor = ""
    while True:
        with contextlib.suppress(OSError):
            cursor = await stream(load, port, f"/topics/{topic}", 1e6, cursor=cursor, is_timed=is_timed)
        load.counts["streams that came back"] += 1
        await asyncio.sleep(RETRY_SECONDS)


async def passing(load: Load) -> None:
    """Streams that come and go, from any start."""
    cursor = ""
    while True:
        chance = load.chance
        start = chance.choice(("", "?since=earliest", "?last=5", f"?lastEventId={cursor}", "?envelope=json"))
        with contextlib.suppress(OSError):
            topics = "&topic=".join(chance.sample(TOPICS, chance.randint(1, 4)))
            target = f"/topics?topic={topics}{start.replace('?', '&')}"
            cursor = await stream(load, load.any_port(), target, chance.uniform(0.05, 3)) or cursor
        load.counts["streams that came and went"] += 1
        await asyncio.sleep(0.02)


async def polling(load: Load) -> None:
    """Long polls and pages of history."""
    while True:
        topic, wait = load.chance.choice(TOPICS), load.chance.choice(("", "?wait=2s", "?last=50"))
        await _asked(load, load.any_port(), "GET", f"/topics/{topic}/events{wait}", "polls")
        await asyncio.sleep(0.2)


async def slow(load: Load) -> None:
    """A stream that is opened and never read, until the broker closes it."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (HOST, load.measured))
            target = "/topics?" + "&".join(f"topic={topic}" for topic in TOPICS)
            await loop.sock_sendall(
                sock, f"GET {target}&since=earliest HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
            )
            await asyncio.sleep(load.chance.uniform(8, 20))
        load.counts["slow readers"] += 1


async def publishing(load: Load, per_second: float) -> None:
    """Single events, to any topic."""
    while True:
        await _publish(load, load.chance.choice(TOPICS), f"{stamp()} {PADDING}")
        await asyncio.sleep(load.chance.expovariate(per_second))


async def bursting(load: Load, events: int) -> None:
    """Many events at once, now and then."""
    while True:
        await asyncio.sleep(load.chance.uniform(2, 8))
        body = b"".join(json.dumps({"data": f"burst {PADDING}"}).encode() + b"\n" for _ in range(events))
        topic = load.chance.choice(TOPICS)
        await _asked(
            load,
            load.any_port(),
            "POST",
            f"/topics/{topic}",
            "bursts",
            "Content-Type: application/x-ndjson",
            body=body,
        )


async def tokens(load: Load, numbers: count[int], fates: Sequence[str] = FATES) -> None:
    """Token streams, each with a viewer. How one ends is drawn from `fates`."""
    while True:
        topic = f"tokens.{next(numbers) % TOKEN_TOPICS}"
        await _asked(load, load.measured, "DELETE", f"/topics/{topic}", "deletes")
        viewer = asyncio.ensure_future(_viewed(load, topic))
        try:
            await _stream_tokens(load, topic, load.chance.choice(fates))
        except OSError:
            load.counts["token streams that failed"] += 1
        finally:
            viewer.cancel()
            await asyncio.gather(viewer, return_exceptions=True)


async def _viewed(load: Load, topic: str) -> None:
    with contextlib.suppress(OSError):
        await stream(load, load.measured, f"/topics/{topic}?since=earliest", 60)


async def _stream_tokens(load: Load, topic: str, fate: str) -> None:
    reader, writer = await asyncio.open_connection(HOST, load.measured)
    try:
        writer.write(
            f"POST /topics/{topic}?end=on-disconnect HTTP/1.1\r\nHost: {HOST}\r\n"
            "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for number in range(load.chance.randint(10, 60)):
            piece = f"data: token {number}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.05)
        if fate == "cancelled":
            await _asked(load, load.measured, "POST", f"/topics/{topic}/cancel", "cancels")
        elif fate == "ends":
            writer.write(b"0\r\n\r\n")
        if fate != "cut":
            async with asyncio.timeout(ANSWER_SECONDS):
                await read_answer(reader)
        load.counts["token streams"] += 1
    except (TimeoutError, EOFError, AssertionError):
        load.counts["token streams that failed"] += 1
    finally:
        writer.transport.abort()


async def administering(load: Load) -> None:
    """What an operator and a dashboard ask for, and requests that are refused."""
    orders: Sequence[tuple[str, str, dict[str, Any] | None]] = (
        ("GET", "/topics", None),
        ("GET", "/metrics", None),
        ("GET", "/readyz", None),
        ("GET", f"/topics/{TOPICS[0]}", None),
        ("POST", "/admin/disconnect", {"topic": TOPICS[1]}),
        ("POST", "/admin/disconnect", {"sub": "nobody"}),
        ("POST", "/admin/revoke", {"jti": "7", "exp": time.time() + 5}),
        ("DELETE", f"/topics/{TOPICS[2]}", None),
        ("POST", "/topics/bad..name", {}),
        ("POST", f"/topics/{TOPICS[3]}?evnt=misspelt", {}),
    )
    while True:
        method, path, value = load.chance.choice(orders)
        body = b"" if value is None else json.dumps(value).encode()
        await _asked(load, load.any_port(), method, path, "orders", "Accept: application/json", body=body)
        await asyncio.sleep(0.3)


def all_clients(load: Load, scale: float) -> list[Coroutine[Any, Any, None]]:
    """All the clients of a run; `scale` 1 is about 25 events and 10 new streams a second."""

    def many(
        number: float, make: Callable[[int], Coroutine[Any, Any, None]]
    ) -> list[Coroutine[Any, Any, None]]:
        return [make(index) for index in range(max(1, round(number * scale)))]

    numbers = count()
    return [
        *many(
            60, lambda index: staying(load, load.measured, TOPICS[index % len(TOPICS)], is_timed=index < 10)
        ),
        *many(20, lambda index: staying(load, load.other, TOPICS[index % len(TOPICS)], is_timed=False)),
        *many(8, lambda _: passing(load)),
        *many(3, lambda _: polling(load)),
        *many(3, lambda _: slow(load)),
        *many(3, lambda _: publishing(load, 8)),
        bursting(load, 200),
        *many(3, lambda _: tokens(load, numbers)),
        *many(2, lambda _: administering(load)),
    ]


async def _publish(load: Load, topic: str, data: str) -> None:
    await _asked(load, load.any_port(), "POST", f"/topics/{topic}", "publishes", body=data.encode())


async def _asked(
    load: Load, port: int, method: str, target: str, kind: str, *headers: str, body: bytes = b""
) -> Answer | None:
    """One request on a connection of its own; None if there was no answer."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(request(method, target, "Connection: close", *headers, body=body))
            answer = await read_answer(reader)
    except (OSError, TimeoutError, EOFError, AssertionError):
        load.counts[f"{kind} without an answer"] += 1
        return None
    finally:
        if writer is not None:
            writer.transport.abort()
    load.counts[kind if answer.status < 400 else f"{kind} refused"] += 1
    return answer
