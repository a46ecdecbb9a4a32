"""A subscriber that stays on a connection for a while, and goes on with its cursor on any instance.

Rules: speaks HTTP by hand. Everything that it receives goes to its witness.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from urllib.parse import urlencode

from tests.stores.chaos.clients import AGAIN_SECONDS, Surroundings
from tests.stores.chaos.witness import Witness
from tests.support.event_stream import ACCEPT, AsyncStream, subscribe_request
from tests.support.http import HOST

HEAD_SECONDS = 3.0
STAY_SECONDS = (0.05, 0.5, 2.0, 6.0)
END_STAY_SECONDS = 0.3
"""How long it stays on a connection on which one of its topics has ended."""


class Wanderer:
    """One subscriber: connects to any instance with its cursor, stays for a while, and goes."""

    def __init__(self, witness: Witness, around: Surroundings, chance: random.Random) -> None:
        self.witness = witness
        self._around = around
        self._chance = chance
        self._is_enveloped = chance.random() < 0.3

    async def run(self) -> None:
        while True:
            try:
                await self._connect()
            except (OSError, TimeoutError):
                self._around.ledger.counts["streams cut or refused"] += 1
            await asyncio.sleep(self._chance.uniform(*AGAIN_SECONDS))

    async def _connect(self) -> None:
        stay = self._chance.choice(STAY_SECONDS)
        port = self._chance.choice(self._around.ports())
        async with asyncio.timeout(HEAD_SECONDS):
            stream = AsyncStream(*await asyncio.open_connection(HOST, port))
        try:
            self.witness.connect(monotonic())
            self._around.ledger.counts["streams"] += 1
            stream.writer.write(self._request())
            await self._read(stream, stay)
        finally:
            stream.writer.transport.abort()

    def _request(self) -> bytes:
        topics, query, headers = self.witness.topics, [], dict(ACCEPT)
        if len(topics) > 1:
            query = [("topic", topic) for topic in topics]
        if self._is_enveloped:
            query.append(("envelope", "json"))
        if self.witness.cursor and self._chance.random() < 0.5:
            query.append(("lastEventId", self.witness.cursor))
        elif self.witness.cursor:
            headers["Last-Event-ID"] = self.witness.cursor
        path = "/topics" if len(topics) > 1 else f"/topics/{topics[0]}"
        return subscribe_request(f"{path}?{urlencode(query)}", headers)

    async def _read(self, stream: AsyncStream, stay: float) -> None:
        loop = asyncio.get_running_loop()
        leave_at = loop.time() + stay
        while loop.time() < leave_at:
            if stream.status not in (0, 200, 204):
                self._around.ledger.fail(f"{self.witness.name}: a stream was answered with {stream.status}")
                return
            try:
                async with asyncio.timeout_at(leave_at):
                    data = await stream.reader.read(1 << 16)
            except TimeoutError:
                return
            for event in stream.feed(data):
                self.witness.receive(event, monotonic())
                if event.type == "broker.end":
                    leave_at = min(leave_at, loop.time() + self._chance.choice([0, END_STAY_SECONDS]))
            stream.events.clear()
            stream.body.clear()
            if not data or stream.is_complete:
                return
