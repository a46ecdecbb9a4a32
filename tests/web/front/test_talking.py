"""Subscribers that talk: an SSE client has nothing to say after its request, so further bytes are bounded; plain and with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from aiohttp import web

from broker import sse
from broker.fanout.subscriber import MAX_HEARD_BYTES
from broker.node.node import Node
from broker.process.app import create_app
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.runner import Runner
from tests.support.http import HOST
from tests.support.raw_client import RawClient
from tests.support.tls import listen_securely, tls_contexts
from tests.support.waiting import until

CONTEXT, TRUSTING = tls_contexts()
SUBSCRIBE = b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUBLISH = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
Scenario = Callable[[Node, Callable[[], RawClient]], Awaitable[None]]
each_way = pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "tls"])
each_loop = pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])


def run(scenario: Scenario, new_loop: Callable[[], asyncio.AbstractEventLoop], *, has_tls: bool) -> None:
    """Run `scenario` against a broker in a loop of its own."""

    async def serve() -> None:
        runner = Runner(create_app(Settings()), access_log=None, shutdown_timeout=1)
        await runner.setup()
        node = runner.app[SERVICES].node
        if has_tls:
            listening, port = await listen_securely(runner, CONTEXT)
            await scenario(node, lambda: RawClient(port, TRUSTING))
            listening.close()
        else:
            await web.TCPSite(runner, HOST, 0).start()
            await scenario(node, lambda: RawClient(runner.addresses[0][1]))
        await runner.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as loop_runner:
        loop_runner.run(serve())


def floods(node: Node) -> float:
    return node.metrics.registry.get_sample_value("broker_closes_total", {"reason": "flood"}) or 0


@each_loop
@each_way
def test_i4_a_subscriber_that_talks_is_cut_off(
    new_loop: Callable[[], asyncio.AbstractEventLoop], has_tls: bool
) -> None:
    async def talk(node: Node, connect: Callable[[], RawClient]) -> None:
        async with connect() as talker, connect() as listener:
            for client in (talker, listener):
                await client.send(SUBSCRIBE)
                assert (await client.read()).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    await talker.send(b"x" * 16_000)
            await until(lambda: len(node.streams.hub) == 1, "it is gone")
            assert floods(node) == 1
            await node.publish([("news", sse.lines(b"for the other"))])
            received = b""
            while b"data: for the other\n" not in received:
                received += await listener.read()

    run(talk, new_loop, has_tls=has_tls)


@each_loop
@each_way
def test_a_few_bytes_behind_the_request_are_ignored(
    new_loop: Callable[[], asyncio.AbstractEventLoop], has_tls: bool
) -> None:
    async def talk(node: Node, connect: Callable[[], RawClient]) -> None:
        async with connect() as client:
            await client.send(SUBSCRIBE)
            assert (await client.read()).startswith(b"HTTP/1.1 200 ")
            for _ in range(MAX_HEARD_BYTES // 2 // len(PUBLISH)):
                await client.send(PUBLISH)
            await node.publish([("news", sse.lines(b"the only one"))])
            received = b""
            while b"data: the only one\n" not in received:
                received += await client.read()
            assert b"HTTP/1.1" not in received
            assert b"data: x\n" not in received
        await until(lambda: not len(node.streams.hub), "it is gone")
        assert floods(node) == 0

    run(talk, new_loop, has_tls=has_tls)
