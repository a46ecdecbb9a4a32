"""Order and completeness for subscribers that reconnect by cursor to either of two brokers, while connections to their server
are killed all the time (I1, I2)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import combinations

import pytest

from broker import sse
from broker.events import EventId, format_id
from tests.live.churn import Follower, Published, all_of, judge, number
from tests.stores.brokers import StartBroker, until_ready
from tests.stores.conftest import StartServer
from tests.support.local_broker import Server
from tests.support.scale import scaled
from tests.support.waiting import WAIT_SECONDS, until

FOLLOWERS = scaled(200)
TOPICS = ["a", "b", "c.d", "e"]
SETS = [list(some) for count in range(1, len(TOPICS) + 1) for some in combinations(TOPICS, count)]
SETTINGS = {"heartbeat_seconds": 0.2, "retention_events": 100_000, "retention_bytes": 64 << 20}
ROUNDS = 150
PUBLISHERS = 4
KILL_SECONDS = (0.05, 0.3)
MAX_KILLS = 3
"""The most kills during one publish: on a slow machine, more would let no publish succeed."""


class Wanderer(Follower):
    """Reconnects to either broker; one that refuses it ends the stream at once."""

    def __init__(self, ports: Sequence[int], topics: Sequence[str], chance: random.Random) -> None:
        super().__init__(ports[0], topics, chance, enveloped=chance.random() < 0.4)
        self._ports = ports

    def _patience(self) -> int:
        self._port = self._chance.choice(self._ports)
        return super()._patience()

    def _request(self) -> bytes:
        return super()._request().replace(b"\r\n\r\n", b"\r\nAccept: text/event-stream\r\n\r\n")


@pytest.mark.slow
@pytest.mark.exclusive  # in parallel with other tests, a publish may exceed its time limit between two kills
@pytest.mark.parametrize("sets", [[["a"]], SETS], ids=["one topic", "sets of topics"])
async def test_i2_nothing_is_missed_while_connections_are_killed(
    start_server: StartServer,
    start_broker: StartBroker,
    chance: random.Random,
    sets: list[list[str]],
) -> None:
    server = start_server()
    brokers = [await start_broker(server.url, **SETTINGS) for _ in range(2)]
    ports = [broker.port for broker in brokers]
    crowd = [Wanderer(ports, chance.choice(sets), random.Random(chance.random())) for _ in range(FOLLOWERS)]
    published = Published()
    last: dict[str, EventId] = {}
    counts = iter(range(1_000_000))

    async def publish(broker: Server, topics: Sequence[str]) -> None:
        datas = [str(next(counts)).ljust(chance.choice([0, 2000]), ".") for _ in topics]
        items = [(topic, sse.lines(data.encode())) for topic, data in zip(topics, datas, strict=True)]
        receipt = await broker.node.publish(items)
        for topic, data, event_id in zip(topics, datas, receipt.ids, strict=True):
            published.add(topic, format_id(event_id), data)

    kills = [0] * PUBLISHERS  # since each publisher's last event was accepted

    async def publish_some(publisher: int) -> None:
        for _ in range(ROUNDS):
            topics = chance.choices(
                TOPICS, k=chance.choice([1, 1, 1, 2, 3, 30])
            )  # may be the same broker again
            await publish(chance.choice(brokers), topics)
            kills[publisher] = 0

    async def publish_all(killing: asyncio.Task[None]) -> None:
        await all_of([publish_some(publisher) for publisher in range(PUBLISHERS)])
        while not all(follower.cursor for follower in crowd):
            await asyncio.sleep(0.01)
        killing.cancel()
        await publish(brokers[0], TOPICS)
        last.update({topic: published.ids(topic)[-1] for topic in TOPICS})

    async def kill() -> None:
        with server.client() as client:
            while True:
                await asyncio.sleep(chance.uniform(*KILL_SECONDS))
                await until(lambda: max(kills) < MAX_KILLS, "the publishers to get on")
                kills[:] = [count + 1 for count in kills]
                client.client_kill_filter(_type=chance.choice(["normal", "pubsub"]))

    def has_all(follower: Follower) -> bool:
        return bool(last) and number(follower.cursor or "0-0") >= max(
            last[topic] for topic in follower.topics
        )

    killing = asyncio.create_task(kill())
    async with asyncio.timeout(3 * WAIT_SECONDS):
        await all_of([publish_all(killing), *(follower.follow(has_all) for follower in crowd)])
    await asyncio.gather(killing, return_exceptions=True)
    assert sum(judge(follower, published) for follower in crowd) == 0, "nothing was lost, so no gaps"
    await until_ready(*brokers)
