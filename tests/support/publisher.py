"""Publishers that keep one connection and record the accepted events."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Self
from urllib.parse import urlencode

from tests.support.http import HOST, NDJSON, Answer, Connection, close, read_answer, request

PASSING = {502, 503, 504}
"""What a proxy or a broker answers while no broker is there."""
AGAIN_SECONDS = 0.1


class Publisher:
    """Publishes to one broker, in the calling thread; a context manager.

    Args:
        attempts: how often an event is sent if its connection is closed without an answer, each time on a new one.

    Attributes:
        published: the data of all accepted events, in order.
    """

    def __init__(self, port: int, *, attempts: int = 1) -> None:
        self.published: list[str] = []
        self._port = port
        self._attempts = attempts
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.socket.close()
            self._connection = None

    def publish(self, topic: str, data: str) -> None:
        """Publish one event."""
        answer = self._ask(request("POST", f"/topics/{topic}", body=data.encode()))
        assert answer.status == 201, answer
        self.published.append(data)

    def publish_numbered(self, topic: str, count: int, size: int) -> None:
        """Publish `count` events of `size` bytes in one request; each begins with its number."""
        first = len(self.published)
        new = [f"{first + index} ".ljust(size, "x") for index in range(count)]
        lines = "".join(json.dumps({"data": data}) + "\n" for data in new)
        answer = self._ask(request("POST", f"/topics/{topic}", NDJSON, body=lines.encode()))
        assert (answer.status, answer.json()["published"]) == (200, count), answer
        self.published += new

    def _ask(self, data: bytes) -> Answer:
        for _ in range(self._attempts):
            if self._connection is None or self._connection.ended:
                self._close()
                self._connection = Connection(self._port)
            self._connection.send(data)
            while not self._connection.received and self._connection.more():
                pass
            if self._connection.received:
                return self._connection.answer()
        raise AssertionError(f"{self._attempts} connections closed without an answer")


class AsyncPublisher:
    """Publishes numbered events in a loop.

    Args:
        on_accepted: is called with topic, id and data of each accepted event.
        name: begins the data of each event.
        persistent: send an event again, under an idempotency key, while the answer is lost or a broker is away.
            Otherwise anything but 201 is an error.

    Attributes:
        answers: how often each status came, or each error.
    """

    def __init__(
        self,
        port: int,
        on_accepted: Callable[[str, str, str], None],
        name: str = "",
        *,
        persistent: bool = False,
    ) -> None:
        self.answers: Counter[int | str] = Counter()
        self._port = port
        self._on_accepted = on_accepted
        self._name = name
        self._persistent = persistent
        self._count = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, *topics: str, size: int = 0) -> None:
        """Publish one event of at least `size` bytes to one topic or to several."""
        self._count += 1
        data = f"{self._name}{self._count}".ljust(size, ".")
        target = f"/topics/{topics[0]}" if len(topics) == 1 else f"/topics?{_query(topics)}"
        key = [f"Idempotency-Key: {data}"] if self._persistent else []
        while True:
            answer = await self._attempt(request("POST", target, *key, body=data.encode()))
            if answer is not None and answer.status == 201:
                break
            assert self._persistent and (answer is None or answer.status in PASSING), answer
            await asyncio.sleep(AGAIN_SECONDS)
        ids = answer.json().get("ids") or {topics[0]: answer.json()["id"]}
        for topic, event_id in ids.items():
            self._on_accepted(topic, event_id, data)

    async def delete(self, topic: str) -> None:
        answer = await self._attempt(request("DELETE", f"/topics/{topic}"))
        assert answer is not None and answer.status == 204, answer

    async def _attempt(self, data: bytes) -> Answer | None:
        """None if the connection was lost."""
        try:
            if self._streams is None or self._streams[0].at_eof():
                await self.close()
                self._streams = await asyncio.open_connection(HOST, self._port)
            reader, writer = self._streams
            writer.write(data)
            answer = await read_answer(reader)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.answers[type(error).__name__] += 1
            await self.close()
            return None
        self.answers[answer.status] += 1
        if answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            await close(writer)


def _query(topics: Sequence[str]) -> str:
    return urlencode([("topic", topic) for topic in topics])
