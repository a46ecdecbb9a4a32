"""Requests for history, and polls that wait."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.fanout.poll import Poll
from tests.support.http import Answer, read_answer, request
from tests.support.local_broker import Server
from tests.support.waiting import until


async def get(server: Server, target: str, **headers: str) -> dict[str, Any]:
    answer = await server.request("GET", target, **headers)
    assert answer.status == 200, answer
    found = answer.json()
    assert [name for name in found if name != "ends"] == ["events", "cursor", "more", "gap", "closed"]
    assert found.get("ends") != [], "left out where no topic has ended"
    return found


def reasons(found: dict[str, Any]) -> dict[str, str]:
    """Why topics have ended."""
    return {end["topic"]: end["reason"] for end in found.get("ends", [])}


def data(found: dict[str, Any]) -> list[str]:
    return [event["data"] for event in found["events"]]


async def publish(server: Server, topic: str, *texts: str) -> list[str]:
    return [await server.publish(topic, text) for text in texts]


class Waiting:
    """A poll on a connection of its own; its answer is still to come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def is_answered(self) -> bool:
        return bool(self.reader._buffer)  # type: ignore[attr-defined]

    async def answer(self) -> Answer:
        return await read_answer(self.reader)

    async def json(self) -> dict[str, Any]:
        answer = await self.answer()
        assert answer.status == 200
        assert answer.headers["cache-control"] == "private, no-cache"
        assert await self.reader.read() == b"", "the connection ends with the answer"
        return answer.json()


async def poll(server: Server, target: str, *headers: str) -> Waiting:
    """A poll that waits, or has waited if its time is short."""
    before = waiting_polls(server)
    waiting = Waiting(*await server.send(request("GET", target, *headers)))
    await until(
        lambda: waiting_polls(server) == before + 1 or waiting.is_answered, "the poll waits, or has waited"
    )
    return waiting


def waiting_polls(server: Server) -> int:
    """How many polls have no answer yet."""
    found = server.node.streams.hub.subscribers
    return sum(isinstance(one, Poll) and one.feed is not None for one in found)


def polls(server: Server) -> int:
    """How many streams and polls are open, also those that have ended but still have data to send."""
    return len(server.node.streams.hub)


async def follow(server: Server, target: str, count: int, cursor: str, **headers: str) -> list[str]:
    """The data of `count` events after `cursor`, by one poll after the other; `target` has its `wait`."""
    seen: list[str] = []
    while len(seen) < count:
        found = await get(server, f"{target}&lastEventId={cursor}", **headers)
        assert found["gap"] is None
        seen += data(found)
        cursor = found["cursor"]
    return seen
