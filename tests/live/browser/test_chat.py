"""The chat transport without a page, in Node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

import broker.web.browser_client
from broker.client import Cancelled, Client
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS

CHAT = Path(broker.web.browser_client.__file__).parent / "client" / "chat.js"
SCRIPT = Path(__file__).with_name("stop.mjs")


async def test_an_answer_that_is_stopped_before_its_topic_is_known_is_cancelled_once_it_begins(
    node: str, broker: BrokerProcess
) -> None:
    asked, stopped = asyncio.Event(), asyncio.Event()

    async def ask(_request: web.Request) -> web.Response:
        asked.set()
        await stopped.wait()
        return web.json_response({"topic": "answers.1"})

    app = web.Application()
    app.router.add_post("/api/chat", ask)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    process = await asyncio.create_subprocess_exec(
        node,
        str(SCRIPT),
        str(CHAT),
        broker.url,
        f"http://127.0.0.1:{port}/api/chat",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS), Client(broker.url) as client:
            await asked.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"stop\n")
            name = (await process.stdout.readline()).split()[0]
            assert name == b"AbortError", "the page waits for no answer of the application"
            async with client.subscribe("answers.1") as events:
                stopped.set()
                assert (await anext(events)).type == "broker.cancel", "this one meets no producer"
            try:
                async with client.stream("answers.1"):
                    await asyncio.sleep(WAIT_SECONDS)
            except Cancelled:
                return
            raise AssertionError("the producer was not stopped")
    finally:
        process.kill()
        await process.wait()
        await runner.cleanup()
