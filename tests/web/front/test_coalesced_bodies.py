"""Pieces of streamed bodies may wait for a moment; requests with a waiting client may not."""

from __future__ import annotations

import asyncio
import ssl

from broker.process.app import create_app
from broker.process.listening import Listening
from broker.settings import Settings
from broker.web.runner import Runner
from tests.support.distant_store import keep_at_a_distance
from tests.support.http import chunked, close, read_answer
from tests.support.local_broker import Server
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import until
from tests.web.streamed_body import EVENT_STREAM, StreamedBody, events

STREAMED = f"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: {EVENT_STREAM}\r\n".encode()
CHUNKED = STREAMED + b"Transfer-Encoding: chunked\r\n\r\n"
SINGLE = b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"


def coalesced(listening: object) -> int:
    """How many connections the coalescing epoll watches."""
    assert isinstance(listening, Listening)
    assert listening._polling is not None
    return len(listening._polling._can_wait)


async def test_a_connection_is_coalesced_while_it_streams_a_body(server: Server) -> None:
    reader, writer = await server.send(SINGLE + b"x")
    await until(lambda: server.services.bodies._waits, "it waits for the rest of a single event")
    assert coalesced(server._listening) == 0
    writer.write(b"y")
    assert (await read_answer(reader)).status == 201
    for _ in range(2):
        writer.write(CHUNKED + chunked(events("a"), end=b""))
        await until(lambda: coalesced(server._listening) == 1, "it waits for more of a streamed body")
        writer.write(chunked(events("b")))
        assert (await read_answer(reader)).json()["published"] == 2
        assert coalesced(server._listening) == 0, "the answer has ended it"
    writer.write(SINGLE + b"xy")
    assert (await read_answer(reader)).status == 201


async def test_a_body_with_a_length_is_not_coalesced(server: Server) -> None:
    """Its client waits for the answer."""
    body = events("a", "b")
    reader, writer = await server.send(STREAMED + b"Content-Length: %d\r\n\r\n" % len(body))
    await until(lambda: server.services.bodies._waits, "it waits for the body")
    assert coalesced(server._listening) == 0
    writer.write(body)
    assert (await read_answer(reader)).json()["published"] == 2


async def test_a_connection_that_is_lost_meanwhile(server: Server) -> None:
    body = await StreamedBody.open(server)
    await body.send(events("a"))
    await until(lambda: coalesced(server._listening) == 1, "it waits for more")
    body.cut()
    await until(lambda: not server.front.connections, "it is gone")
    assert coalesced(server._listening) == 0


async def test_while_an_event_waits_for_its_store_the_connection_stays_as_it_is(server: Server) -> None:
    """Each piece begins a wait of its own then."""
    places, waits = asyncio.Semaphore(0), server.services.bodies._waits
    keep_at_a_distance(server.node, places.acquire)
    body = await StreamedBody.open(server)
    for text in "abc":
        await until(lambda: waits, "it waits for more")
        await body.send(events(text))
        await until(lambda: not waits, "the event waits for its store")
        assert coalesced(server._listening) == 1
        places.release()
    assert (await body.end()).json()["published"] == 3


async def test_pieces_of_many_bodies_share_wake_ups_and_all_arrive_in_order(server: Server) -> None:
    bodies = [await StreamedBody.open(server, f"/topics/{number}") for number in range(20)]
    streams = [await server.subscribe(f"/topics/{number}?since=earliest") for number in range(20)]
    assert server._listening is not None
    assert server._listening._polling is not None
    coalescing = server._listening._polling._coalescing
    sent = 20
    for number in range(sent):
        while not coalescing.is_coalescing:
            coalescing._wake()  # as for many pieces
        for body in bodies:
            await body.send(events(str(number)))
    assert (await server.request("POST", "/topics/other", b"x")).status == 201
    for body, stream in zip(bodies, streams, strict=True):
        assert (await body.end()).json()["published"] == sent
        assert await stream.data(sent) == [str(number) for number in range(sent)]
    await until(lambda: not coalescing.is_coalescing, "the timer stops when little arrives")


async def test_with_tls() -> None:
    context, trusting = tls_contexts()
    runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
    await runner.setup()
    listening, port = await listen_securely(runner, context)
    try:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        assert isinstance(writer.get_extra_info("ssl_object"), ssl.SSLObject)
        writer.write(CHUNKED + chunked(events("a"), end=b""))
        await until(lambda: coalesced(listening) == 1, "it waits for more")
        writer.write(chunked(events("b")))
        assert (await read_answer(reader)).json()["published"] == 2
        assert coalesced(listening) == 0
        await close(writer)
    finally:
        listening.close()
        await runner.cleanup()
