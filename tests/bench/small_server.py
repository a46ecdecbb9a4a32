"""A minimal SSE server, to put load on."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict

from aiohttp import web


class SmallServer:
    """A minimal SSE server: topics, ids, replay, NDJSON.

    Attributes:
        kept: the encoded events of each topic.
        cursors: how often each `Last-Event-ID` was sent.
    """

    def __init__(self) -> None:
        self.ids = itertools.count(1)
        self.kept: defaultdict[str, list[bytes]] = defaultdict(list)
        self.subscribers: defaultdict[str, set[web.StreamResponse]] = defaultdict(set)
        self.cursors: Counter[str] = Counter()
        self.closing = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/page", self.page)
        app.router.add_get("/topics/{topic}", self.subscribe)
        app.router.add_post("/topics/{topic}", self.publish)
        app.on_shutdown.append(self.close)
        return app

    async def close(self, _app: web.Application) -> None:
        self.closing.set()

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(text="<p>no stream here", content_type="text/html")

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        topic = request.match_info["topic"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        cursor = request.headers.get("Last-Event-ID", "")
        self.cursors[cursor] += 1
        if cursor:
            await response.write(b"".join(self.kept[topic][int(cursor) :]))
        self.subscribers[topic].add(response)
        await self.closing.wait()
        return response

    async def publish(self, request: web.Request) -> web.Response:
        topic = request.match_info["topic"]
        if request.content_type != "application/x-ndjson":
            await self.fan_out(topic, await request.read())
            return web.json_response({"topic": topic}, status=201)
        published = 0
        async for line in request.content:
            await self.fan_out(topic, json.loads(line)["data"].encode())
            published += 1
        return web.json_response({"published": published})

    async def fan_out(self, topic: str, data: bytes) -> None:
        kept = self.kept[topic]
        kept.append(b"data: %b\nid: %d\n\n" % (data, len(kept) + 1))
        for subscriber in tuple(self.subscribers[topic]):
            try:
                await subscriber.write(kept[-1])
            except ConnectionResetError:
                self.subscribers[topic].discard(subscriber)
