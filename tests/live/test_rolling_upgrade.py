"""A rolling upgrade: instances of version 1 and of this version share a store, and clients wander between them.

Version 1 is the package as of commit 19b3baf, the last one before the contract's version 2. It comes as an archive
(`git archive 19b3baf broker | xz -9e`), so that the tests need no history, and runs with the libraries of this version.
"""

from __future__ import annotations

import asyncio
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from broker.events import EventId
from tests.live.churn import Follower, Published, all_of, judge, number
from tests.live.rolling import Viewer
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import JSON, Answer, Connection, chunked, exchange, request
from tests.support.publisher import AsyncPublisher
from tests.support.waiting import WAIT_SECONDS, wait_for

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).with_name("version1.tar.xz")
EVENT_STREAM = "Content-Type: text/event-stream"
TOPICS = [f"topic.{number}" for number in range(4)]
VIEWERS_OF_EACH = 8
SETTINGS: dict[str, Any] = {
    "drain_seconds": 3,
    "retry_min_ms": 50,
    "retry_max_ms": 300,
    "heartbeat_seconds": 1,
    "retention_events": 100_000,
    "retention_bytes": 100_000_000,
}
EVENTS_BETWEEN_STEPS = 100
"""Accepted from all publishers, before the next instance is replaced."""


@pytest.fixture(scope="module")
def version_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that has the package of version 1."""
    folder = tmp_path_factory.mktemp("version1")
    with tarfile.open(ARCHIVE) as archive:
        if hasattr(tarfile, "data_filter"):  # not in Debian's Python 3.11.2
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    return folder


class WanderingViewer(Viewer):
    """Stays for some events, and comes back to whatever instance chance chooses."""

    def __init__(self, ports: Sequence[int], topic: str, chance: random.Random) -> None:
        super().__init__(ports[0], topic)
        self._ports = ports
        self._wandering = chance

    async def stay(self, enough: Callable[[Follower], bool]) -> None:
        most = 0

        def enough_here(viewer: Follower) -> bool:
            return enough(viewer) or len(viewer.notes) >= most

        while not enough(self):
            self._port = self._wandering.choice(self._ports)
            most = len(self.notes) + self._wandering.choice([2, 5, 20, 100])
            with suppress(ConnectionError):  # the instance is being replaced
                await self._view(enough_here)


class WanderingPublisher(AsyncPublisher):
    """Changes the instance at random, also between two attempts at the same event."""

    def __init__(
        self,
        ports: Sequence[int],
        on_accepted: Callable[[str, str, str], None],
        name: str,
        chance: random.Random,
    ) -> None:
        super().__init__(ports[0], on_accepted, name, persistent=True)
        self._ports = ports
        self._wandering = chance

    async def _attempt(self, data: bytes) -> Answer | None:
        if self._streams is None or self._wandering.random() < 0.2:
            await self.close()
            self._port = self._wandering.choice(self._ports)
        return await super()._attempt(data)


async def test_nothing_is_lost_or_doubled_while_instances_are_replaced(
    version_1: Path, store_arguments: dict[str, Any], chance: random.Random
) -> None:
    """Three instances of version 1 are upgraded in turn, one goes back to version 1 and forth again."""
    published = Published()
    over = asyncio.Event()
    last: dict[str, EventId] = {}

    def accepted() -> int:
        return sum(len(data) for data in published.data.values())

    def has_all(viewer: Follower) -> bool:
        return bool(last) and number(viewer.cursor or "0-0") >= last[viewer.topics[0]]

    with ExitStack() as stack:

        def start(port: int, **old: Path) -> BrokerProcess:
            broker = BrokerProcess(port=port, **SETTINGS, **store_arguments, **old)
            stack.enter_context(broker)
            wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 200, "it to be ready")
            return broker

        def replace(index: int, **old: Path) -> None:
            assert brokers[index].terminate() == 0
            assert "Traceback" not in brokers[index].output, brokers[index].output
            brokers[index] = start(ports[index], **old)

        brokers = [start(0, folder=version_1) for _ in range(3)]
        ports = [broker.port for broker in brokers]

        async def upgrade() -> None:
            while not all(viewer.cursor for viewer in viewers):
                await asyncio.sleep(0.05)
            publishing = asyncio.gather(*(keep_publishing(*each) for each in publishers))
            for index, old in [(0, {}), (1, {}), (0, {"folder": version_1}), (2, {}), (0, {})]:
                before = accepted()
                while accepted() < before + EVENTS_BETWEEN_STEPS:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(replace, index, **old)
            over.set()
            await publishing
            last.update({topic: published.ids(topic)[-1] for topic in TOPICS})

        async def keep_publishing(publisher: WanderingPublisher, topic: str) -> None:
            while not over.is_set():
                await publisher.publish(topic)
                await asyncio.sleep(0.02)
            await publisher.publish(topic)
            await publisher.close()

        publishers = [
            (
                WanderingPublisher(
                    ports, published.add, f"{topic}-{number}-", random.Random(chance.random())
                ),
                topic,
            )
            for topic in TOPICS
            for number in range(2)
        ]
        viewers = [
            WanderingViewer(ports, topic, random.Random(chance.random()))
            for topic in TOPICS
            for _ in range(VIEWERS_OF_EACH)
        ]
        async with asyncio.timeout(3 * WAIT_SECONDS):
            await all_of([upgrade(), *(viewer.stay(has_all) for viewer in viewers)])
    assert sum(judge(viewer, published) for viewer in viewers) == 0, "no gap"
    data = [text for topic in TOPICS for text in published.data[topic].values()]
    assert len(data) == len(set(data)) == sum(publisher._count for publisher, _ in publishers)


@pytest.fixture(scope="module")
def old_and_new(version_1: Path, module_store_arguments: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """The ports of an instance of version 1 and of one of this version."""
    with (
        BrokerProcess(folder=version_1, **SETTINGS, **module_store_arguments) as old,
        BrokerProcess(**SETTINGS, **module_store_arguments) as new,
    ):
        yield old.port, new.port


def asked(port: int, method: str, target: str, *headers: str, body: bytes | None = None) -> Answer:
    return exchange(port, request(method, target, *headers, body=body))


def end_of(stream: Stream) -> dict[str, Any]:
    """The stream's last event, which must be an end."""
    stream.rest()
    assert stream.events[-1].type == "broker.end", stream.events
    value = json.loads(stream.events[-1].data)
    assert isinstance(value, dict)
    return value


NEW_ENDS = {
    "failed": ("?end=true&reason=failed", b""),
    "stopped": ("?end=true&reason=stopped", b"last"),
    "closed": ("?end=true&end_data=%5BDONE%5D", b"data: one\n\ndata: [DONE]\n\n"),
}


@pytest.mark.parametrize("reason", NEW_ENDS)
def test_an_end_of_this_version_ends_the_topic_on_version_1(
    old_and_new: tuple[int, int], reason: str
) -> None:
    """Streams that are open and those that come later. The reason is passed on as it is."""
    old, new = old_and_new
    query, body = NEW_ENDS[reason]
    topic = f"/topics/new.{reason}"
    headers = [EVENT_STREAM] if "end_data" in query else []
    assert asked(new, "POST", topic, body=b"before").status == 201
    with Stream(old, f"{topic}?since=earliest") as live:
        live.read_first()
        assert asked(new, "POST", topic + query, *headers, body=body).status in (200, 201)
        assert end_of(live)["reason"] == reason
    _ends_for_all(old_and_new, topic, reason)


def test_a_cancel_on_this_version_ends_the_topic_on_version_1(old_and_new: tuple[int, int]) -> None:
    old, new = old_and_new
    topic = "/topics/new.cancelled"
    with Connection(new) as producer, Stream(old, topic) as live:
        live.read_first()
        head = request("POST", f"{topic}?end=true", EVENT_STREAM, "Transfer-Encoding: chunked")
        producer.send(head + chunked(b"data: one\n\n", end=b""))
        while len(live.events) < 2:
            assert live.read()
        assert asked(new, "POST", f"{topic}/cancel", body=b"").status == 202
        assert producer.answer().status == 409
        assert end_of(live)["reason"] == "cancelled"
    _ends_for_all(old_and_new, topic, "cancelled")


@pytest.mark.parametrize("reason", ["closed", "deleted"])
def test_an_end_of_version_1_ends_the_topic_on_this_one(old_and_new: tuple[int, int], reason: str) -> None:
    old, new = old_and_new
    topic = f"/topics/old.{reason}"
    assert asked(old, "POST", topic, body=b"before").status == 201
    with Stream(new, f"{topic}?since=earliest") as live:
        live.read_first()
        if reason == "deleted":
            assert asked(old, "DELETE", topic).status == 204
        else:
            assert asked(old, "POST", f"{topic}?end=true", body=b"last").status == 201
        assert end_of(live)["reason"] == reason
    if reason == "closed":
        _ends_for_all(old_and_new, topic, reason)


def _ends_for_all(ports: Sequence[int], topic: str, reason: str) -> None:
    """The topic is closed on all instances, its end is read from the store, and behind it comes nothing."""
    for port in ports:
        with Stream(port, f"{topic}?since=earliest") as stream:
            assert end_of(stream)["reason"] == reason
        end = stream.events[-1].id
        assert asked(port, "GET", f"{topic}?lastEventId={end}").status == 204
        assert asked(port, "GET", topic, JSON).json()["closed"] is True
        refused = asked(port, "POST", topic, body=b"too late")
        assert (refused.status, refused.json()["code"]) == (409, "closed")


@pytest.mark.parametrize("first", [0, 1], ids=["version 1 first", "this version first"])
def test_keys_and_sequences_count_on_both(old_and_new: tuple[int, int], first: int) -> None:
    one, other = old_and_new[first], old_and_new[1 - first]
    key = f"Idempotency-Key: key-{first}"
    answers = [asked(port, "POST", f"/topics/keys.{first}", key, body=b"once") for port in (one, other)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["idempotency-replayed"] == "true"
    producer = ["Broker-Producer: pipe", "Broker-Sequence: 1", EVENT_STREAM]
    target = f"/topics/sequence.{first}"
    begun = asked(one, "POST", target, *producer, body=b"data: one\n\ndata: two\n\n")
    assert begun.json()["published"] == 2
    body = b"data: one\n\ndata: two\n\ndata: three\n\n"
    done = asked(other, "POST", f"{target}?end=true", *producer, body=body)
    assert (done.json()["published"], done.json()["known"]) == (1, 2)
    with Stream(one, f"{target}?since=earliest") as stream:
        assert end_of(stream)["reason"] == "closed"
    assert [event.data for event in stream.published()] == ["one", "two", "three"]
