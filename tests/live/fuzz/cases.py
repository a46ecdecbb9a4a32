"""Requests of all kinds, from bytes that mean nothing to pipelines in which hardly anything is wrong.

Rules: bytes only, nothing is sent here. All chance comes from the case's own generator. Names are drawn from small sets, so that
what the broker keeps for them reaches its limit soon.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from broker.web.routes import ROUTES
from tests.support.http import chunked

MAX_PIECES = 5


class Ending(enum.Enum):
    """What the client does once it has sent everything."""

    HALF_CLOSE = enum.auto()
    """It sends no more, and reads to the end."""
    CLOSE = enum.auto()
    RESET = enum.auto()
    RESET_AFTER_ANSWER = enum.auto()
    """It reads a little first, if anything comes."""


@dataclass(frozen=True)
class Case:
    """What one client sends, in these pieces, and how it leaves."""

    pieces: Sequence[bytes]
    ending: Ending


HOT = [route for route in ROUTES if route.path in ("/topics", "/topics/{topic}", "/topics/{topic}/events")]
GOOD_TOPICS = ["a", "b", "a.b", "a.b.c"]
METHODS = ["GET", "GET", "POST", "POST", "HEAD", "DELETE", "OPTIONS", "PUT", "CONNECT", "get", "M-SEARCH"]
TOPICS = [
    "a",
    "b",
    "a.b",
    "a.b.c",
    "_stats",
    "",
    ".",
    "a..b",
    "x" * 201,
    "%00",
    "%ff",
    "a%2fb",
    "*",
    "é",
    "events",
]
NAMES = [
    "topic",
    "event",
    "since",
    "last",
    "lastEventId",
    "last-event-id",
    "before",
    "limit",
    "after",
    "envelope",
]
NAMES += [
    "control",
    "end",
    "reason",
    "end_data",
    "end_event",
    "retain",
    "last_viewer",
    "match",
    "_x",
    "nonsense",
    "",
]
VALUES = [
    "a",
    "b",
    "1",
    "-1",
    "0",
    "true",
    "false",
    "none",
    "json",
    "earliest",
    "latest",
    "10m",
    "99999999h",
    "1e9",
    "%",
]
VALUES += [
    "1763791200123-0",
    "18446744073709551616-0",
    "2025-11-22T07:00:00Z",
    "on-disconnect",
    "%0d%0a",
    "x" * 500,
    "\u0661",
]
HEADERS = [
    "Accept: application/json",
    "Accept: text/event-stream",
    "Accept: text/html;q=0.8,*/*;q=x",
    "Accept: " + "a/b;q=0.1," * 300,
    "Last-Event-ID: 1763791200123-0",
    "Last-Event-ID: \xff\xfe",
    "Idempotency-Key: key",
    "Idempotency-Key: \xe9",
    "Broker-Producer: p",
    "Broker-Sequence: 1",
    "Broker-Sequence: 99999999999999999999",
    "Authorization: Bearer x.y.z",
    "Authorization: Bearer",
    "Cookie: " + "broker_token=;" * 200,
    "Origin: http://127.0.0.1",
    "Origin: null",
    "Sec-Fetch-Site: cross-site",
    "Content-Encoding: gzip",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade\r\nUpgrade: h2c",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "X-Forwarded-For: 1.2.3.4, x",
    "Forwarded: for=_hidden",
    "If-None-Match: *",
    "Host: other.example",
    "X: " + "y" * 4000,
]
TYPES = [
    "text/plain",
    "application/x-ndjson",
    "application/jsonl",
    "text/event-stream",
    "application/json",
    "a",
    "",
]
TOKENS = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b"?",
    b"&",
    b"=",
    b"%",
    b"\xff",
    b"\xc3",
    b"{",
    b"[" * 300,
]
TOKENS += [
    b"HTTP/1.0",
    b"HTTP/9.9",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"9" * 30,
    b"A" * 9000,
]
TOKENS += [
    b"Transfer-Encoding: chunked\r\n",
    b"Host: x\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\x16\x03\x01",
    b"data: x\n\n",
]
LINES = [
    b'{"data": "x"}',
    b'{"data": {"a": [1, 2.5e400, null]}, "event": "x"}',
    b'{"topic": "a", "data": 1}',
    b"{",
    b"[]",
]
LINES += [
    b'{"data": "\\ud800"}',
    b'{"data": NaN}',
    b'{"data": 1}' + b" " * 3000,
    b"",
    b"\xff",
    b'{"topic": "_stats", "data": 1}',
]
BLOCKS = [
    b"data: x\n\n",
    b"event: broker.end\ndata: y\n\n",
    b"data: [DONE]\n\n",
    b": comment\n\n",
    b"retry: 1\n\n",
]
BLOCKS += [b"data: " + b"z" * 3000 + b"\n\n", b"id: 1\ndata: \xff\n\n", b"{}", b"\r\r", b"data"]


def case(seed: int, number: int) -> Case:
    """Request `number` of `seed`."""
    chance = random.Random(f"{seed}-{number}")
    make: Callable[[random.Random], bytes] = chance.choices([noise, pipeline, mutated], [1, 4, 4])[0]
    data = make(chance)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(MAX_PIECES)))
    edges = [0, *cuts, len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]
    return Case(pieces, chance.choice(list(Ending)))


def noise(chance: random.Random) -> bytes:
    """Bytes that mean nothing."""
    if chance.random() < 0.5:
        return chance.randbytes(chance.randrange(400))
    return b"".join(chance.choices(TOKENS, k=chance.randrange(12)))


def pipeline(chance: random.Random) -> bytes:
    """Requests in a row."""
    return b"".join(request(chance) for _ in range(chance.choice([1, 1, 1, 2, 3, 8])))


def mutated(chance: random.Random) -> bytes:
    """The same, with a few bytes wrong."""
    data = bytearray(pipeline(chance))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(40))
        data[at:end] = chance.choice(
            [b"", chance.choice(TOKENS), chance.randbytes(3), bytes(data[at:end]) * 2]
        )
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data)


def request(chance: random.Random) -> bytes:
    """One request to some route, well-formed except for its values."""
    route = chance.choice(HOT if chance.random() < 0.6 else ROUTES)
    method = route.method if chance.random() < 0.8 else chance.choice(METHODS)
    topic = chance.choice(GOOD_TOPICS if chance.random() < 0.8 else TOPICS)
    path = route.path.replace("{topic}", topic).replace("{name}", chance.choice(["page.js", "x", ""]))
    names = chance.choices(NAMES, k=chance.choice([0, 0, 0, 0, 1, 1, 2, 40]))
    query = "&".join(f"{name}={chance.choice(VALUES)}" for name in names)
    target = f"{path}?{query}" if query else path
    if chance.random() < 0.05:
        target = chance.choice(
            ["http://other.example" + target, "*", "//" + target, target + "#x", "no-slash"]
        )
    lines = [f"{method} {target} HTTP/{chance.choice(['1.1', '1.1', '1.1', '1.0'])}", "Host: 127.0.0.1"]
    lines += chance.sample(HEADERS, chance.choice([0, 0, 0, 1, 1, 2, 5]))
    body, framing = b"", ""
    if method == "POST" or chance.random() < 0.1:
        body, content_type = chance.choice([text, ndjson, blocks, command])(chance)
        lines.append(f"Content-Type: {content_type if chance.random() < 0.8 else chance.choice(TYPES)}")
        if chance.random() < 0.5:
            cut = chance.randrange(len(body) + 1)
            body = chunked(body[:cut], body[cut:])
            framing = "Transfer-Encoding: chunked"
        else:
            framing = f"Content-Length: {len(body) + chance.choice([0, 0, 0, 0, 1, -1, 10**6])}"
        lines.append(framing)
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def text(chance: random.Random) -> tuple[bytes, str]:
    return chance.choice(
        [b"", b"x", b"a\nb\rc\r\nd", b"\xff", b"\xe2\x82\xac" * 2000, b"\n" * 5000]
    ), "text/plain"


def ndjson(chance: random.Random) -> tuple[bytes, str]:
    return b"\n".join(chance.choices(LINES, k=chance.randrange(6))), "application/x-ndjson"


def blocks(chance: random.Random) -> tuple[bytes, str]:
    return b"".join(chance.choices(BLOCKS, k=chance.randrange(6))), "text/event-stream"


def command(chance: random.Random) -> tuple[bytes, str]:
    """A body for `/admin`."""
    value: Any = chance.choice(
        [{}, [], None, "x", {"subject": "s"}, {"subject": 1}, {"topic": "a"}, {"token_id": "x" * 300}]
    )
    return json.dumps(value).encode(), "application/json"
