"""The calls of a shared store: how long they take, how often they are repeated, and how often they fail."""

from __future__ import annotations

import asyncio

from broker.stores.stats import CALLS
from tests.stores.brokers import StartBroker
from tests.stores.conftest import StartServer
from tests.support.patience import timeouts
from tests.support.waiting import WAIT_SECONDS, until

GIVEN_UP_SECONDS = 0.5


async def test_each_call_is_timed(start_server: StartServer, start_broker: StartBroker) -> None:
    broker = await start_broker(start_server().url)
    measures = broker.node._store.stats.calls
    for _ in range(3):
        await broker.publish("news", "x")
    await broker.request("DELETE", "/topics/news")
    assert set(measures.seconds.by) == set(CALLS)
    assert measures.seconds.by["publish"].count == 3
    assert measures.seconds.by["delete"].count == 1
    assert 0 < measures.seconds.by["publish"].sum < WAIT_SECONDS
    assert measures.retries.value == measures.failures.value == 0


async def test_a_call_whose_connection_is_lost_is_sent_again(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    broker = await start_broker(server.url)
    measures = broker.node._store.stats.calls
    server.pause()
    publishing = asyncio.ensure_future(broker.publish("news", "x"))  # it may take as long as it wants
    with timeouts(REPLY_TIMEOUT_SECONDS=GIVEN_UP_SECONDS):
        await until(
            lambda: broker.node._store.checks()["store"] != "ok", "the broker gives the connection up"
        )
    server.resume()
    await publishing
    assert measures.retries.value > 0
    published = measures.seconds.by["publish"]
    assert published.count == 1
    assert published.sum > GIVEN_UP_SECONDS, "from the first attempt"


async def test_a_call_without_an_answer_has_failed(
    start_server: StartServer, start_broker: StartBroker
) -> None:
    server = start_server()
    broker = await start_broker(server.url)
    measures = broker.node._store.stats.calls
    server.pause()
    try:
        with timeouts(CALL_SECONDS=0.5):
            assert (await broker.request("POST", "/topics/news", b"x")).status == 503
    finally:
        server.resume()
    assert measures.failures.value > 0
    assert measures.seconds.by["publish"].count == 0
