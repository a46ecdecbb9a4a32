"""Streams without heartbeats: `?heartbeat=none`, for finding time-outs on a path."""

from __future__ import annotations

import asyncio

from tests.support.event_stream import AsyncStream
from tests.support.local_broker import Serve, Server
from tests.support.tokens import HMAC, SECRET

QUIET = "/topics/a?heartbeat=none"
HEARTBEAT = b"\n\n:\n"
"""After the event `broker.open`."""


async def sweep_until_heartbeat(server: Server, stream: AsyncStream) -> None:
    async def sweep() -> None:
        while True:
            server.node.streams.hub.sweep()
            await asyncio.sleep(0.001)

    sweeping = asyncio.create_task(sweep())
    await stream.until(lambda: HEARTBEAT in stream.body)
    sweeping.cancel()


async def test_it_has_no_heartbeats_when_others_of_its_topic_have(serve: Serve) -> None:
    server = await serve(heartbeat_seconds=0.001)
    quiet, usual = await server.subscribe(QUIET), await server.subscribe("/topics/a")
    await sweep_until_heartbeat(server, usual)
    await server.publish("a", "x")
    assert await quiet.data(1) == await usual.data(1) == ["x"]
    assert b"\n:\n" not in bytes(quiet.body).partition(b"\n\n")[2]


async def test_it_needs_the_admin_right_each_time(serve: Serve) -> None:
    server = await serve(jwt_secrets=(SECRET,), anonymous=("subscribe",))
    operator = HMAC.token(subscribe=["a"], admin=True)
    reader = HMAC.token(subscribe=["a"])
    for _ in range(2):
        assert (await server.subscribe(QUIET, authorization=f"Bearer {operator}")).status == 200
        refused = await server.request("GET", QUIET, authorization=f"Bearer {reader}")
        assert (refused.status, refused.json()["code"]) == (403, "forbidden")
        refused = await server.request("GET", QUIET)
        assert (refused.status, refused.json()["code"]) == (401, "unauthorized")


async def test_other_values_are_refused(server: Server) -> None:
    answer = await server.request("GET", "/topics/a?heartbeat=5", accept="text/event-stream")
    assert (answer.status, answer.json()["code"]) == (400, "invalid-parameter")
