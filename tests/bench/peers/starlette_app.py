"""A peer: pub/sub as it is typically written with sse-starlette, with a queue for each subscriber.

Rules: runs in an environment of its own (see servers.py) and imports nothing of this repository. It is as simple as typical code,
except that it keeps the last events of a topic for replay, so that reconnecting can be compared.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent  # type: ignore[import-not-found]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEPT = 1000
Event = tuple[int, str]

ids = itertools.count(1)
queues: defaultdict[str, set[asyncio.Queue[Event]]] = defaultdict(set)
kept: defaultdict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=KEPT))


async def publish(request: Request) -> Response:
    """Put the event into the queue of each subscriber."""
    topic = request.path_params["topic"]
    event = (next(ids), (await request.body()).decode())
    kept[topic].append(event)
    for queue in queues[topic]:
        queue.put_nowait(event)
    return JSONResponse({"id": str(event[0])}, status_code=201)


async def subscribe(request: Request) -> Response:
    """Stream the missed events, then new ones."""
    topic = request.path_params["topic"]
    cursor = request.headers.get("last-event-id")
    queue: asyncio.Queue[Event] = asyncio.Queue()
    if cursor:
        for event in kept[topic]:
            if event[0] > int(cursor):
                queue.put_nowait(event)
    queues[topic].add(queue)
    response: Response = EventSourceResponse(follow(topic, queue))
    return response


async def follow(topic: str, queue: asyncio.Queue[Event]) -> AsyncIterator[ServerSentEvent]:
    try:
        while True:
            number, data = await queue.get()
            yield ServerSentEvent(data, id=str(number))
    finally:
        queues[topic].discard(queue)


app = Starlette(
    routes=[
        Route("/topics/{topic}", publish, methods=["POST"]),
        Route("/topics/{topic}", subscribe, methods=["GET"]),
    ]
)
