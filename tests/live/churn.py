"""Subscribers that disconnect at random and resume by cursor, and the check of the events they received.

A follower only takes notes. `judge` checks them afterwards, when all published events are known: every event after the
cursor arrived once and in order, or a gap was reported and is true (I2).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from broker.events import Event, EventId, parse_id
from tests.support.event_stream import AsyncStream
from tests.support.http import HOST, request

PATIENCE_SECONDS = 0.5
"""How long a follower stays on a connection on which one of its topics has ended."""
SILENCE_SECONDS = 0.5
"""After it, no event that was still on its way arrives."""
GAP_SECONDS = 4 * SILENCE_SECONDS
"""How long it stays after a gap: if events of other topics follow, only the next connection shows what is still missing."""
READ_SIZES = (64, 1000, 1 << 16)


def number(text: str) -> EventId:
    """An id as a number."""
    event_id = parse_id(text)
    assert event_id is not None, text
    return event_id


@dataclass
class Published:
    """The data of all that was published, by topic and id."""

    data: dict[str, dict[EventId, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, topic: str, event_id: str, data: str) -> None:
        self.data[topic][number(event_id)] = data

    def ids(self, topic: str) -> list[EventId]:
        return sorted(self.data[topic])


@dataclass(frozen=True)
class Note:
    """Something a follower was sent: `kind` is `event`, or the control event's name without `broker.`."""

    kind: str
    topic: str
    id: EventId
    data: str = ""


class Follower:
    """One subscriber of some topics.

    Attributes:
        cursor: the last id it has seen; empty before the first.
        notes: everything it was sent, in order; `connect` marks the beginning of each connection, with the cursor it sent.
        noted_at: when the last note was taken; monotonic seconds.
        resets: connections that the broker cut, which it does to slow readers, such as those on a busy machine.
    """

    def __init__(
        self, port: int, topics: Sequence[str], chance: random.Random, *, enveloped: bool = False
    ) -> None:
        self.topics = topics
        self.cursor = ""
        self.notes: list[Note] = []
        self.noted_at = 0.0
        self.resets = 0
        self._port = port
        self._chance = chance
        self._enveloped = enveloped

    async def follow(self, enough: Callable[[Follower], bool]) -> None:
        """Connect, read, drop, and again, until it is enough."""
        while not enough(self):
            await self.connect(enough, drop_after=self._patience())

    def stands_before_a_gap(self, last: Mapping[str, EventId]) -> bool:
        """Whether every event that it lacks up to `last` is lost: this connection reported so, and is silent since."""
        reported: set[str] = set()
        for note in reversed(self.notes):
            if note.kind == "connect":
                break
            if note.kind != "gap":
                return False
            reported.add(note.topic)
        lacks = {topic for topic in self.topics if last[topic] > number(self.cursor or "0-0")}
        return lacks <= reported and time.monotonic() - self.noted_at > SILENCE_SECONDS

    def _patience(self) -> int:
        """How many events this connection may live for."""
        return self._chance.choice([0, 0, 1, 2, 5, 20, 100])

    async def connect(self, enough: Callable[[Follower], bool], drop_after: int = 1 << 60) -> None:
        """One connection; dropped somewhere within the bytes that follow the `drop_after`-th event."""
        stream = AsyncStream(*await asyncio.open_connection(HOST, self._port))
        try:
            stream.writer.write(self._request())
            if drop_after or self._chance.random() < 0.5:
                await self._read(stream, enough, drop_after)
        except ConnectionResetError:
            self.resets += 1
        finally:
            stream.writer.transport.abort()
            await stream.close()

    def _request(self) -> bytes:
        query = [("topic", topic) for topic in self.topics] if len(self.topics) > 1 else []
        path = "/topics" if query else f"/topics/{self.topics[0]}"
        headers = []
        self.notes.append(Note("connect", "", number(self.cursor) if self.cursor else -1))
        if self.cursor and self._chance.random() < 0.5:
            query.append(("lastEventId", self.cursor))
        elif self.cursor:
            headers.append(f"Last-Event-ID: {self.cursor}")
        if self._enveloped:
            query.append(("envelope", "json"))
        return request("GET", f"{path}?{urlencode(query)}", *headers)

    async def _read(self, stream: AsyncStream, enough: Callable[[Follower], bool], drop_after: int) -> None:
        count = 0
        leave_at = float("inf")
        while not enough(self) and count <= drop_after and time.monotonic() < leave_at:
            # Heartbeats keep it from waiting for long.
            is_open = await stream.more(self._chance.choice(READ_SIZES))
            assert stream.status in (0, 200), stream.status
            for event in stream.events[count:]:
                count += 1
                self._note(event)
                if event.type == "broker.gap":
                    leave_at = min(leave_at, time.monotonic() + GAP_SECONDS)
                if event.type == "broker.end":  # some stay for the events of the other topics
                    drop_after = min(drop_after, count + self._chance.choice([-1, 5]))
                    leave_at = min(leave_at, time.monotonic() + PATIENCE_SECONDS)
            if not is_open:
                return

    def _note(self, event: Event) -> None:
        topic, data = self.topics[0], event.data
        kind = "event"
        if event.type is not None and event.type.startswith("broker."):
            kind = event.type.removeprefix("broker.")
            value = json.loads(event.data)
            topic, data = value.get("topic", ""), value.get("after", "")
        elif self._enveloped:
            value = json.loads(event.data)
            topic, data = value["topic"], value["data"]
            assert value["id"] == event.id
        elif len(self.topics) > 1:
            topic = ""  # to be found by its id
        if kind != "gap":
            self.cursor = event.id
        self.noted_at = time.monotonic()
        self.notes.append(Note(kind, topic, number(event.id) if event.id else -1, data))


def judge(follower: Follower, published: Published, *, exact: bool = True) -> int:
    """Fail unless the follower has seen each event once and in order, or a gap was reported; returns the number of gaps.

    `exact`: a gap must be true, which is too much to ask where a topic as a whole was given up.
    """
    verdict = _Verdict(follower, published, exact=exact)
    for note in follower.notes:
        verdict.hear(note)
    verdict.finish()
    return verdict.gaps


class _Verdict:
    """Goes through a follower's notes.

    Attributes:
        due: for each topic, the index of the event that must come next; None before the first cursor.
        forgiven: topics in which a gap was reported since their last event.
        ended: topics that have ended on this connection.
    """

    def __init__(self, follower: Follower, published: Published, *, exact: bool) -> None:
        self.gaps = 0
        self._exact = exact
        self._name = f"follower of {', '.join(follower.topics)}"
        self._published = published
        self._ids = {topic: published.ids(topic) for topic in follower.topics}
        self._topic_of = {event_id: topic for topic, ids in self._ids.items() for event_id in ids}
        self._due: dict[str, int] = {}
        self._forgiven: dict[str, EventId] = {}
        self._cursor: EventId = -1
        self._newest: EventId = -1
        self._ended: set[str] = set()

    def _fail(self, what: str, note: Note) -> None:
        raise AssertionError(f"{self._name}: {what}: {note}")

    def hear(self, note: Note) -> None:
        handlers: dict[str, Callable[[Note], None]] = {
            "connect": self._connect,
            "open": self._open,
            "gap": self._gap,
            "event": self._event,
            "end": self._end,
        }
        handlers[note.kind](note)

    def _connect(self, note: Note) -> None:
        for topic in self._ended:  # while it stayed, its one cursor moved past new events of this topic
            begin = bisect_right(self._ids[topic], note.id)
            if begin > self._due[topic]:
                self._due[topic] = begin
                self._forgiven.pop(topic, None)
        self._cursor = self._newest = note.id
        self._ended = set()

    def _open(self, note: Note) -> None:
        if self._cursor != -1:
            self._fail("opened as new in spite of its cursor", note)
        self._newest = note.id
        self._due = {topic: bisect_right(ids, note.id) for topic, ids in self._ids.items()}

    def _gap(self, note: Note) -> None:
        self.gaps += 1
        if number(note.data) != self._cursor:
            self._fail("the gap is after another cursor", note)
        self._forgiven[note.topic] = self._cursor

    def _end(self, note: Note) -> None:
        self._increases(note)
        self._ended.add(note.topic)

    def _increases(self, note: Note) -> None:
        if note.id <= self._newest:
            self._fail("ids don't increase (I1)", note)
        self._newest = note.id

    def _event(self, note: Note) -> None:
        self._increases(note)
        topic = note.topic or self._topic_of.get(note.id, "")
        if self._published.data[topic].get(note.id) != note.data:
            self._fail("it was never published", note)
        if topic in self._ended:
            self._fail(f"{topic} had ended on this connection", note)
        index = bisect_right(self._ids[topic], note.id) - 1
        due = self._due[topic]
        if index < due:
            self._fail("seen twice", note)
        if index > due and topic not in self._forgiven:
            self._fail(f"{index - due} events of {topic} skipped in silence (I2)", note)
        if index == due and self._exact and topic in self._forgiven:
            self._fail("a gap was reported, and nothing is missing", note)
        self._forgiven.pop(topic, None)
        self._due[topic] = index + 1

    def finish(self) -> None:
        """After the last note nothing may be missing but behind a gap, which must then be true."""
        for topic, ids in self._ids.items():
            if topic in self._ended:
                continue  # it stayed on a connection without this topic
            missing = len(ids) - self._due.get(topic, len(ids))
            if missing and topic not in self._forgiven:
                raise AssertionError(f"{self._name}: {missing} events of {topic} never came")
            if topic in self._forgiven and not missing and self._exact:
                raise AssertionError(
                    f"{self._name}: a gap was reported in {topic} at its end, and nothing is missing"
                )


async def all_of(tasks: Sequence[Awaitable[None]]) -> None:
    """Run them together; the first that fails ends the others."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(_run(task))


async def _run(task: Awaitable[None]) -> None:
    await task
