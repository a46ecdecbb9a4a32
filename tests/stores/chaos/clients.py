"""The clients of a chaos run: publishers with keys, and one that closes and deletes topics.

Rules: clients speak HTTP by hand and know the brokers by their ports only. Each has a random generator of its own, so that a
seed fixes its choices. They report to the ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from broker.events import EventId, parse_id
from tests.stores.chaos.ledger import Attempt, Ledger, Span
from tests.support.http import HOST, Answer, read_answer, request

PATIENCE_SECONDS = (0.3, 1.0, 8.0)
"""How long a client waits for an answer. The broker answers within 5 s, but a paused one doesn't."""
AGAIN_SECONDS = (0.02, 0.3)
GHOST_SECONDS = 15.0
"""For how long a request without an answer may still be carried out: an instance that was paused finds it when it goes on."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all clients share. `ports` are those of the instances; `is_over` ends the publishing."""

    ledger: Ledger
    ports: Callable[[], Sequence[int]]
    is_over: Callable[[], bool]


async def ask(port: int, message: bytes, patience: float) -> Answer | None:
    """One request on a connection of its own; None if there was no whole answer in time."""
    writer = None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(message)
            return await read_answer(reader)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    finally:
        if writer is not None:
            writer.transport.abort()


class Persistent:
    """Sends a request to one instance after the other until it is answered with something other than 503."""

    def __init__(self, around: Surroundings, chance: random.Random) -> None:
        self.ledger = around.ledger
        self.chance = chance
        self._around = around

    async def run(self) -> None:
        """Be at it until the publishing is over."""
        raise NotImplementedError

    async def ask(self, message: bytes) -> tuple[Answer, bool]:
        """The answer, and whether all earlier attempts are surely over: one that got no answer may still be carried out."""
        is_clean = True
        while True:
            port = self.chance.choice(self._around.ports())
            answer = await ask(port, message, self.chance.choice(PATIENCE_SECONDS))
            self.ledger.counts[f"answers: {answer.status if answer else 'none'}"] += 1
            if answer is not None and answer.status != 503:
                return answer, is_clean
            is_clean = False
            if answer is not None and not self._is_sound_refusal(answer):
                self.ledger.fail(f"an unsound refusal: {answer}")
            await asyncio.sleep(self.chance.uniform(*AGAIN_SECONDS))

    @staticmethod
    def _is_sound_refusal(answer: Answer) -> bool:
        return "retry-after" in answer.headers and answer.json()["code"] in {"unavailable", "overloaded"}


class Publisher(Persistent):
    """Publishes numbered events with a key each, and now and then repeats one that was acknowledged."""

    def __init__(
        self, name: str, topics: Sequence[str], around: Surroundings, chance: random.Random, pause: float
    ) -> None:
        super().__init__(around, chance)
        self._name = name
        self._topics = topics
        self._pause = pause
        self._count = 0

    async def run(self) -> None:
        while not self._around.is_over():
            await self.publish(self.chance.choice(self._topics))
            await asyncio.sleep(self.chance.expovariate(1 / self._pause))

    async def publish(self, topic: str) -> EventId | None:
        """Publish the next event; returns its id, or None if the topic was closed."""
        self._count += 1
        padding = "." * self.chance.choice([0, 0, 0, 0, 300, 3000])
        above = self.ledger.highest_acknowledged
        attempt = self.ledger.send(topic, f"{self._name}.{self._count} {topic} {padding}", monotonic())
        key = f"{self._name}.{self._count}"
        message = request("POST", f"/topics/{topic}", f"Idempotency-Key: {key}", body=attempt.data.encode())
        answer, _ = await self.ask(message)
        event_id = self._read(attempt, answer, above)
        if event_id is not None and self.chance.random() < 0.1:
            await self._repeat(attempt, message, event_id)
        return event_id

    def _read(self, attempt: Attempt, answer: Answer, above: EventId) -> EventId | None:
        if answer.status == 409 and answer.json()["code"] == "closed":
            self.ledger.refuse(attempt, monotonic())
            return None
        if answer.status != 201:
            self.ledger.fail(f"{attempt.name}: an unexpected answer: {answer}")
            return None
        event_id = parse_id(str(answer.json()["id"]))
        assert event_id is not None
        self.ledger.acknowledge(attempt, event_id, monotonic(), above=above)
        return event_id

    async def _repeat(self, attempt: Attempt, message: bytes, event_id: EventId) -> None:
        answer, _ = await self.ask(message)
        self.ledger.counts["repeated keys"] += 1
        again = self._read(attempt, answer, 0)
        if again == event_id and answer.headers.get("idempotency-replayed") != "true":
            self.ledger.fail(f"{attempt.name}: published before, but the answer doesn't say so")
        if again is None and not self.ledger.may_have_lost(attempt.sent_at, monotonic()):
            self.ledger.fail(f"{attempt.name}: published before, and refused with {answer}")


class Closer(Persistent):
    """Closes topics and deletes them: closed ones always, so that they open again, and open ones now and then.

    Attributes:
        closed: topics that were closed and not deleted since, each with the highest id known before.
    """

    def __init__(
        self,
        closable: Sequence[str],
        deletable: Sequence[str],
        around: Surroundings,
        chance: random.Random,
    ) -> None:
        super().__init__(around, chance)
        self.closed: dict[str, EventId] = {}
        self._may_come_back: set[str] = set()  # topics that a request without an answer may close later
        self._closable = closable
        self._deletable = deletable

    async def run(self) -> None:
        while not self._around.is_over():
            await asyncio.sleep(self.chance.uniform(0.5, 3))
            if self.chance.random() < 0.5 and self._closable:
                topic = self.chance.choice(self._closable)
                await self.close(topic)
                await asyncio.sleep(self.chance.uniform(0, 2))
                if self.chance.random() < 0.8:
                    await self.delete(topic)
            elif self._deletable:
                await self.delete(self.chance.choice(self._deletable))

    async def close(self, topic: str) -> None:
        span = Span(monotonic())
        self.ledger.closings[topic].append(span)
        known = max(self.ledger.by_topic[topic], default=0)
        answer, is_clean = await self.ask(request("POST", f"/topics/{topic}?end=true", body=b""))
        self._may_come_back |= set() if is_clean else {topic}
        if answer.status not in (200, 201) or answer.json().get("closed") is not True:
            self.ledger.fail(f"closing {topic}: {answer}")
        self.closed.setdefault(topic, known)
        self.ledger.counts["closed"] += 1

    async def delete(self, topic: str) -> None:
        span = Span(monotonic())
        self.ledger.deletions[topic].append(span)
        answer, is_clean = await self.ask(request("DELETE", f"/topics/{topic}"))
        span.ended_at = monotonic() + (0 if is_clean else GHOST_SECONDS)
        if answer.status != 204:
            self.ledger.fail(f"deleting {topic}: {answer}")
        self.closed.pop(topic, None)
        if topic not in self._may_come_back:
            for closing in self.ledger.closings[topic]:
                closing.ended_at = min(closing.ended_at, monotonic())
        self.ledger.counts["deleted"] += 1

    def settle(self) -> None:
        """All topics are open, and no request is under way."""
        self._may_come_back.clear()
        self.ledger.closings.clear()
