"""Reading an exchange byte by byte."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from broker.doctor import wire
from broker.doctor.wire import Exchange
from tests.support.http import HOST, RESET_ON_CLOSE, chunked
from tests.support.waiting import WAIT_SECONDS

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: a\r\nserver: b\r\n\r\n"
EVENT = b"data: x\nid: 1-0\n\n"


@asynccontextmanager
async def exchange(*pieces: bytes, reset: bool = False) -> AsyncIterator[Exchange]:
    """An exchange with a server that sends these pieces, and then closes the connection or resets it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        made = await wire.raw_exchange(f"http://{HOST}:{port}", None, b"GET / HTTP/1.1\r\n\r\n")
        yield made
        await made.close()


async def whole(*pieces: bytes, reset: bool = False) -> Exchange:
    async with exchange(*pieces, reset=reset) as made:
        await made.wait(lambda: False, WAIT_SECONDS)
        return made


async def test_a_stream() -> None:
    made = await whole(CHUNKED, chunked(b"retry: 9\n:\n", EVENT, b":\n"))
    assert (made.version, made.status, made.ended) == ("1.1", 200, wire.LAST_CHUNK)
    assert made.headers.getall("Server") == ["a", "b"]
    assert made.chunks == [b"retry: 9\n:\n", EVENT, b":\n"]
    assert [event.data for _, event in made.events] == ["x"]
    assert len(made.heartbeats) == 2
    assert made.retry_ms == 9


async def test_interim_answers_are_passed_over() -> None:
    made = await whole(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        CHUNKED,
        chunked(EVENT),
    )
    assert (made.status, made.ended, len(made.events)) == (200, wire.LAST_CHUNK, 1)
    assert "Link" not in made.headers


@pytest.mark.parametrize("at", range(1, len(EVENT)))
async def test_pieces_of_any_size(at: int) -> None:
    made = await whole(CHUNKED, chunked(EVENT[:at], end=b""), chunked(EVENT[at:]))
    assert [event.data for _, event in made.published()] == ["x"]


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_compressed_bodies_are_read(encoding: str, bits: int) -> None:
    packer = zlib.compressobj(wbits=bits)
    body = packer.compress(EVENT) + packer.flush()
    made = await whole(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (encoding.encode(), len(body), body)
    )
    assert bytes(made.body) == EVENT


@pytest.mark.parametrize(
    ("pieces", "reset", "ended"),
    [
        ((CHUNKED, chunked(EVENT, end=b"")), False, wire.CLOSED),
        ((CHUNKED,), True, wire.RESET),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), False, wire.MALFORMED),
        ((CHUNKED, b"zz\r\n"), False, wire.MALFORMED),
        ((b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",), False, wire.MALFORMED),
        ((b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", b"no gzip"), False, wire.MALFORMED),
        ((), False, wire.CLOSED),
    ],
)
async def test_how_it_ends(pieces: Sequence[bytes], reset: bool, ended: str) -> None:
    assert (await whole(*pieces, reset=reset)).ended == ended


@pytest.mark.parametrize(
    "body", [b"x" * wire.READ_BYTES, b":\n" * (wire.READ_BYTES // 2), b"data: x\n\n" * 8000], ids=len
)
async def test_an_endless_body_is_bounded(body: bytes) -> None:
    count = 3 * wire.MAX_BYTES // len(body)
    made = await whole(b"HTTP/1.1 200 OK\r\n\r\n", *[body] * count)
    assert made.ended in (wire.TOO_LONG, wire.MALFORMED)
    assert len(made.body) <= wire.MAX_BYTES + wire.READ_BYTES


async def test_a_small_body_that_inflates_to_a_large_one_is_bounded() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(bytes(100 << 20)) + packer.flush()
    made = await whole(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(bomb), bomb)
    )
    assert made.ended in (wire.TOO_LONG, wire.MALFORMED)
    assert len(made.body) <= 2 * wire.MAX_BYTES


async def test_an_endless_head_is_bounded() -> None:
    async with exchange(b"HTTP/1.1 200 OK\r\n", *[b"X: %b\r\n" % (b"x" * 60_000)] * 100) as made:
        await made.wait(lambda: False, WAIT_SECONDS)
        assert made.ended in (wire.TOO_LONG, wire.MALFORMED)
