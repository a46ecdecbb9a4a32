"""Brokers are restarted, one after the other, and no client behind the proxy notices.

`TEST_SCALE=0.1 pytest tests/live/test_rolling_restart.py` is a tenth of the crowd.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from broker.events import EventId
from tests.live.churn import Follower, Published, all_of, judge, number
from tests.live.conftest import BehindEach
from tests.live.proxied import Front
from tests.live.proxies import PROXIES
from tests.live.rolling import Viewer
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.publisher import AsyncPublisher
from tests.support.scale import scaled
from tests.support.waiting import WAIT_SECONDS, wait_for

VIEWERS = scaled(700)
CROWDED, BUSY = "crowded", "busy"
"""Many view the one; to the other, which one views, is published all the time: whenever a broker goes, an event is on its way."""
PUBLISHERS = [(CROWDED, 0.5)] * 2 + [(BUSY, 0.02)] * 4
"""Each one's topic, and its pause in seconds."""
SETTLE_SECONDS = 2.5
"""Between one restart and the next: a proxy has then seen that the broker is back. Orchestrators know it as minReadySeconds."""
NOTICE_SECONDS = 8
"""For the proxies to notice that a broker drains: longer than they need, so that a slow machine doesn't matter."""
SETTINGS: dict[str, Any] = {
    "drain_notice_seconds": 3,
    "drain_seconds": 3,
    "retry_min_ms": 100,
    "retry_max_ms": 1000,
    "heartbeat_seconds": 1,
    "retention_events": 10_000,
}


@dataclass(frozen=True)
class Outcome:
    """The outcome: the events published, the viewers with what each received, and the answers to publishers."""

    published: Published
    viewers: Sequence[Viewer]
    answers: Counter[int | str]

    @property
    def reconnects(self) -> int:
        return sum(note.kind == "connect" for viewer in self.viewers for note in viewer.notes) - len(
            self.viewers
        )

    @property
    def refused(self) -> int:
        return sum(viewer.refused for viewer in self.viewers)

    def gaps(self, *, exact: bool) -> int:
        """Fails unless each viewer has each event once and in order, or a gap."""
        return sum(judge(viewer, self.published, exact=exact) for viewer in self.viewers)


async def restart_each(brokers: Sequence[BrokerProcess]) -> None:
    """SIGTERM, the whole drain, and a start, one broker after the other."""

    def restart(broker: BrokerProcess) -> None:
        assert broker.terminate() == 0
        assert "Traceback" not in broker.output, broker.output
        broker.start()
        wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 200, "it to be ready")

    for broker in brokers:
        await asyncio.to_thread(restart, broker)
        await asyncio.sleep(SETTLE_SECONDS)


async def roll(front: Front) -> Outcome:
    """Restart all brokers of `front` while viewers view and publishers publish."""
    published = Published()
    publishers = [
        (AsyncPublisher(front.port, published.add, f"publisher{index}-", persistent=True), topic, pause)
        for index, (topic, pause) in enumerate(PUBLISHERS)
    ]
    over = asyncio.Event()
    last: dict[str, EventId] = {}

    def has_all(viewer: Follower) -> bool:
        return bool(last) and number(viewer.cursor or "0-0") >= last[viewer.topics[0]]

    async def keep_publishing(publisher: AsyncPublisher, topic: str, pause: float) -> None:
        while not over.is_set():
            await publisher.publish(topic)
            await asyncio.sleep(pause)
        await publisher.publish(topic)
        await publisher.close()

    async def run() -> None:
        while not all(viewer.cursor for viewer in viewers):
            await asyncio.sleep(0.05)
        publishing = asyncio.gather(*(keep_publishing(*each) for each in publishers))
        await restart_each(front.brokers)
        over.set()
        await publishing
        last.update({topic: published.ids(topic)[-1] for topic in (CROWDED, BUSY)})

    viewers = [Viewer(front.port, topic) for topic in [CROWDED] * VIEWERS + [BUSY]]
    async with asyncio.timeout(3 * WAIT_SECONDS):
        await all_of([run(), *(viewer.stay(has_all) for viewer in viewers)])
    return Outcome(published, viewers, sum((publisher.answers for publisher, *_ in publishers), Counter()))


@pytest.mark.slow
@pytest.mark.exclusive  # on a busy machine, a drain's notice may end before the proxy has noticed
async def test_three_brokers_restart_in_turn_and_no_client_notices(
    behind_each: BehindEach, store_arguments: dict[str, Any]
) -> None:
    """Behind all proxies at the same time."""
    fronts = behind_each(3, **SETTINGS | {"drain_notice_seconds": NOTICE_SECONDS}, **store_arguments)
    for name, outcome in zip(fronts, await asyncio.gather(*map(roll, fronts.values())), strict=True):
        assert outcome.gaps(exact=True) == 0, name
        assert set(outcome.answers) == {201}, (name, outcome.answers)
        assert outcome.refused == 0, name
        assert outcome.reconnects >= len(outcome.viewers), (
            f"{name}: all brokers had viewers, and ended their streams"
        )


async def test_one_broker_restarts_and_the_loss_of_its_memory_is_a_gap(behind_each: BehindEach) -> None:
    """Behind each proxy, at the same time."""
    started = behind_each(1, **SETTINGS)
    fronts = {name: front for name, front in started.items() if PROXIES[name].comes_back}
    for name, outcome in zip(fronts, await asyncio.gather(*map(roll, fronts.values())), strict=True):
        assert outcome.gaps(exact=False) >= len(outcome.viewers), name
        assert outcome.reconnects >= len(outcome.viewers), name
