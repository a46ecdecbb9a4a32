"""Fixtures that all tests share."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import hypothesis
import pytest
import uvloop

from broker.fanout.close_reason import CloseReason
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.hub_harness import HubHarness
from tests.support.local_broker import Clock, Serve, Server, serving
from tests.support.patience import long_timeouts
from tests.support.waiting import WAIT_SECONDS

pytest_plugins = ("tests.support.run_folder",)


@pytest.fixture(scope="session")
def shared_brokers() -> Iterator[SharedBrokers]:
    """Broker processes; starting one takes half a second."""
    with SharedBrokers() as brokers:
        yield brokers


@pytest.fixture
def broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    """A broker in its own process, with the settings as they come, without topics and subscribers."""
    return shared_brokers.get()


@pytest.fixture
def broker_url(broker: BrokerProcess) -> str:
    """Its address."""
    return broker.url


@pytest.fixture
def chance() -> random.Random:
    """Seeded; a failure shows the seed."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(1 << 32)))
    print(f"TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def patient_stores() -> Iterator[None]:
    """No store gives up because the machine stalls; see `tests.support.patience`."""
    with long_timeouts():
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def serve(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Starts brokers with the settings given; they share the test's clock."""
    async with serving(clock) as start:
        yield start


@pytest.fixture
async def server(serve: Serve) -> Server:
    """One with the settings as they come."""
    return await serve()


@pytest.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[HubHarness]:
    """A hub, with `max_age_seconds` where the test gives one; nothing may stay in it of a subscriber that has left."""
    made = HubHarness(getattr(request, "param", 0))
    yield made
    await end_streams(made)
    assert not made.hub.feeds


async def end_streams(harness: HubHarness) -> None:
    """Cut all subscribers, and wait until they are gone."""
    for subscriber in harness.hub.subscribers:
        harness.hub.cut(subscriber, CloseReason.DRAINING)
    async with asyncio.timeout(WAIT_SECONDS):
        while len(harness.hub):
            await asyncio.sleep(0)
    for far in harness.far.values():
        far.close()


hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine makes no test fail
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    """Add the mark `first`, and collect without the cycle collector. Undo that a shell makes background jobs ignore SIGINT, and nohup SIGHUP: programs that tests start would inherit it."""
    gc.disable()
    config.addinivalue_line("markers", "first: a long wait, which begins before all other tests")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest waits, so that a parallel run doesn't end with one."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare the cycle collector what lives as long as the process: modules and tests, of which there are millions of objects.

    A pass before that would take a second in each process, and free a few percent.
    """
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop that the broker runs on."""
    return {"uvloop": uvloop.new_event_loop}
