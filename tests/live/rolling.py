"""Who is there while brokers are restarted one after the other: viewers who stay, publishers who insist.

A viewer does what EventSource does, and takes a follower's notes: churn's `judge` tells whether it was served well.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

import aiohttp

from broker.sse import Decoder
from tests.live.churn import Follower, Note, Published, number
from tests.live.proxied import STREAM

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 2.0
"""Who is refused is told to stay away for up to half a minute, which no test waits for."""
PUBLISH_AGAIN_SECONDS = 0.1
PASSING = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
SILENCE_SECONDS = 20
OPENED = b"\n:\n"
"""What a stream begins with after its `retry:`, and a refusal doesn't."""


class Viewer(Follower):
    """One browser tab with an EventSource on `topic`.

    Attributes:
        refused: how often it was told to come back later.
    """

    def __init__(self, url: str, topic: str, session: aiohttp.ClientSession) -> None:
        super().__init__(0, [topic], random.Random(0))
        self.refused = 0
        self._url = f"{url}/topics/{topic}"
        self._session = session
        self._delay_seconds = FIRST_DELAY_SECONDS

    async def stay(self, enough: Callable[[Follower], bool]) -> None:
        """Follow until it is enough, over as many connections as it takes."""
        while True:
            await self._view(enough)
            if enough(self):
                return
            await asyncio.sleep(min(self._delay_seconds, LONGEST_DELAY_SECONDS))

    async def _view(self, enough: Callable[[Follower], bool]) -> None:
        """One connection. Fails where a browser would give up: at anything but a stream."""
        cursor = {"Last-Event-ID": self.cursor} if self.cursor else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS)
        async with self._session.get(self._url, headers=STREAM | cursor, timeout=timeout) as response:
            assert response.status == HTTPStatus.OK, f"lost for good: {response.status}"
            assert response.content_type == "text/event-stream"
            self.notes.append(Note("connect", "", number(self.cursor) if self.cursor else -1))
            await self._watch(response, enough)

    async def _watch(self, response: aiohttp.ClientResponse, enough: Callable[[Follower], bool]) -> None:
        decoder = Decoder()
        opening = b""
        while not enough(self):  # a heartbeat makes it look again
            try:
                data = await response.content.readany()
            except aiohttp.ClientPayloadError:  # cut; what isn't whole comes again
                data = b""
            for event in decoder.feed(data):
                self._note(event)
            if decoder.retry_ms is not None:
                self._delay_seconds = decoder.retry_ms / 1000
            opening = opening or data
            if not data:
                self.refused += OPENED not in opening
                return


class Insistent:
    """Publishes numbered events, each under a key of its own and again until it is answered 201.

    Attributes:
        answers: how often each status came, or each error.
    """

    def __init__(self, url: str, topic: str, name: str, published: Published) -> None:
        self.answers: Counter[int | str] = Counter()
        self._url = f"{url}/topics/{topic}"
        self._topic = topic
        self._names = (f"{name}-{index}" for index in itertools.count())
        self._published = published

    async def publish(self, session: aiohttp.ClientSession) -> None:
        """One event; its name is its data and its key."""
        data = next(self._names)
        while not await self._attempt(session, data):
            await asyncio.sleep(PUBLISH_AGAIN_SECONDS)

    async def _attempt(self, session: aiohttp.ClientSession, data: str) -> bool:
        try:
            async with session.post(self._url, data=data, headers={"Idempotency-Key": data}) as answer:
                self.answers[answer.status] += 1
                if answer.status == HTTPStatus.CREATED:
                    self._published.add(self._topic, (await answer.json())["id"], data)
                else:
                    assert answer.status in PASSING, await answer.text()
                return answer.status == HTTPStatus.CREATED
        except aiohttp.ClientConnectionError as error:
            self.answers[type(error).__name__] += 1
            return False
