"""The pub/sub connection: its channels survive it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.stores.redis.address import parse
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.pubsub import PubSubReader
from tests.support.redis_servers import Server
from tests.support.waiting import until


class Recorder:
    """A handler that records its calls."""

    def __init__(self) -> None:
        self.payloads: list[tuple[bytes, bytes]] = []
        self.calls: list[str] = []

    def receive(self, channel: bytes, payload: bytes) -> None:
        self.payloads.append((channel, payload))

    def subscribed(self) -> None:
        self.calls.append("subscribed")

    def disconnected(self) -> None:
        self.calls.append("disconnected")


class Reader:
    """A running reader, its handler, and a client that publishes."""

    def __init__(self, server: Server) -> None:
        self.delivery = Delivery()
        self.pubsub = PubSubReader(parse(server.url), ["always"], self.delivery)
        self.handler = Recorder()
        self.client = server.client()

    def publish(self, channel: str, *payloads: str) -> None:
        for payload in payloads:
            self.client.publish(channel, payload)


@pytest.fixture
async def reader(empty_server: Server) -> AsyncIterator[Reader]:
    reader = Reader(empty_server)
    running = asyncio.create_task(reader.pubsub.run(reader.handler))
    await until(lambda: reader.pubsub.is_ready, "it is subscribed")
    yield reader
    running.cancel()
    await asyncio.wait([running])
    reader.client.close()


async def test_payloads_arrive_in_order(reader: Reader) -> None:
    await reader.pubsub.subscribe("a")
    reader.publish("a", "1", "2")
    reader.publish("b", "3")
    reader.publish("always", "4")
    await until(lambda: len(reader.handler.payloads) == 3, "all arrive")
    assert reader.handler.payloads == [(b"a", b"1"), (b"a", b"2"), (b"always", b"4")]


async def test_nothing_arrives_after_unsubscribe(reader: Reader) -> None:
    await reader.pubsub.subscribe("a")
    reader.pubsub.unsubscribe("a")
    await until(lambda: reader.client.pubsub_numsub("a") == [(b"a", 0)], "it is unsubscribed")
    await reader.pubsub.subscribe("a")
    reader.publish("a", "1")
    await until(lambda: reader.handler.payloads == [(b"a", b"1")], "it may subscribe again")


async def test_a_new_connection_subscribes_to_all_channels(reader: Reader) -> None:
    await reader.pubsub.subscribe("a")
    generation = reader.pubsub.generation
    reader.pubsub.reset("a test")
    await until(lambda: reader.handler.calls == ["subscribed", "disconnected", "subscribed"], "it is back")
    assert reader.pubsub.generation == generation + 1
    reader.publish("a", "1")
    await until(lambda: reader.handler.payloads == [(b"a", b"1")], "it arrives")


async def test_a_pause_holds_payloads_back(reader: Reader) -> None:
    reader.delivery.flowing.clear()
    reader.publish("always", "1")
    await until(lambda: len(reader.handler.payloads) == 1, "the read underway is finished")
    reader.publish("always", "2")
    answers = [reader.client.ping() for _ in range(100)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert (all(answers), len(reader.handler.payloads)) == (True, 1)
    reader.delivery.resume()
    await until(lambda: len(reader.handler.payloads) == 2, "it goes on")
