"""One chaos run: rounds of disturbance, each followed by quiet, in which all subscribers must catch up and everything is checked."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from time import monotonic

from broker.events import EventId
from tests.stores.chaos.clients import Closer, Publisher, Surroundings
from tests.stores.chaos.groups import Busy, Group
from tests.stores.chaos.ledger import Ledger
from tests.stores.chaos.replays import check_replays, read_replay
from tests.stores.chaos.report import Report
from tests.stores.chaos.wanderer import Wanderer
from tests.stores.chaos.witness import Witness

PLAIN = ("news", "orders.7", "orders.8")
CLOSABLE = ("answer.1", "answer.2")
DELETABLE = ("draft",)
TOPICS = (*PLAIN, *CLOSABLE, *DELETABLE)
PUBLISHERS = 4
WITNESSES = 14
FAULT_SECONDS = 1.0
PUBLISH_PAUSE = 0.06
CATCH_UP_SECONDS = 60.0
"""The bound in quiet. The report says how long it took."""
SHOWN = 12


class Run:
    """A run on one group.

    Args:
        disturb_seconds: how long each round disturbs.
        without: faults to leave out; `closing` for no closed topics.
    """

    def __init__(
        self, group: Group, ledger: Ledger, seed: int, disturb_seconds: float, *, without: Sequence[str] = ()
    ) -> None:
        self._faults = {name: fault for name, fault in group.faults().items() if name not in without}
        closable = () if "closing" in without else CLOSABLE
        self.report = Report(seed)
        self._group = group
        self._ledger = ledger
        self._disturb_seconds = disturb_seconds
        self._chance = random.Random(seed)
        self._is_quiet = False
        self._around = Surroundings(ledger, group.ports, lambda: self._is_quiet)
        self._publishers = [
            Publisher(f"p{index}", TOPICS, self._around, self._own_chance(), PUBLISH_PAUSE)
            for index in range(PUBLISHERS)
        ]
        self._closer = Closer(closable, DELETABLE, self._around, self._own_chance())
        self.witnesses = [
            Witness(f"w{index}", self._some_topics(index), ledger) for index in range(WITNESSES)
        ]

    def _own_chance(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))

    def _some_topics(self, index: int) -> list[str]:
        if index < len(TOPICS):
            return [TOPICS[index]]
        return sorted(self._chance.sample(TOPICS, self._chance.randint(2, len(TOPICS))))

    async def run(self, seconds: float, progress: Callable[[Report], None] = lambda report: None) -> Report:
        """Rounds until `seconds` are over or something is violated."""
        began_at = monotonic()
        wanderers = [Wanderer(witness, self._around, self._own_chance()) for witness in self.witnesses]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wanderer.run()) for wanderer in wanderers]
            while monotonic() - began_at < seconds and not self.report.violations:
                await self._round()
                self.report.seconds = monotonic() - began_at
                progress(self.report)
            for task in tasks:
                task.cancel()
        return self.report

    async def _round(self) -> None:
        began_at = monotonic()
        self._is_quiet = False
        async with asyncio.TaskGroup() as group:
            for client in (*self._publishers, self._closer):
                group.create_task(client.run())
            await self._disturb()
            self._is_quiet = True
        await self._group.until_ready()
        fences = await self._catch_up()
        for topic, fence in fences.items():
            replays = [
                await read_replay(port, topic, fence) for port in self._group.ports() for _ in range(2)
            ]
            self._ledger.violations += check_replays(topic, replays, self._ledger, began_at)
        stored = await asyncio.to_thread(self._group.stored_ids)
        for witness in self.witnesses:
            witness.check(stored)
        self._ledger.violations += self._group.defects()
        self._finish_round(began_at)

    async def _disturb(self) -> None:
        faults = self._faults
        names, weights = list(faults), [weight for _, weight in faults.values()]
        end_at = monotonic() + self._disturb_seconds
        async with asyncio.TaskGroup() as group:
            while monotonic() < end_at and not self._ledger.violations:
                (name,) = self._chance.choices(names, weights)
                group.create_task(self._one(name))
                await asyncio.sleep(self._chance.uniform(0.5, 1.5) * FAULT_SECONDS)

    async def _one(self, name: str) -> None:
        with contextlib.suppress(Busy):
            await self._faults[name][0]()
            self.report.faults[name] += 1

    async def _catch_up(self) -> dict[str, EventId]:
        """All subscribers receive everything, the ends of closed topics too, and then one more event of each topic; returns their ids."""
        quiet_at = monotonic()
        closed = dict(self._closer.closed)
        await self._until(lambda: [*self._missing(), *self._missing_ends(closed)], quiet_at)
        fences = {}
        for topic in TOPICS:
            if topic in self._closer.closed:
                await self._closer.delete(topic)
            while (fence := await self._publishers[0].publish(topic)) is None and not self._ledger.violations:
                await self._closer.delete(topic)
            fences[topic] = fence or 0
        await self._until(self._missing, quiet_at)
        self._closer.settle()
        self.report.slowest_catch_up = max(self.report.slowest_catch_up, monotonic() - quiet_at)
        return fences

    async def _until(self, missing: Callable[[], list[str]], quiet_at: float) -> None:
        while (left := missing()) and not self._ledger.violations:
            if monotonic() - quiet_at > CATCH_UP_SECONDS:
                self._ledger.violations += left[:SHOWN]
                self._ledger.fail(
                    f"{len(left)} events or ends had not come {CATCH_UP_SECONDS} s after the disturbance"
                )
            await asyncio.sleep(0.1)

    def _missing(self) -> list[str]:
        return [line for witness in self.witnesses for line in witness.missing()]

    def _missing_ends(self, closed: dict[str, int]) -> list[str]:
        return [
            f"{witness.name}: the end of {topic}"
            for witness in self.witnesses
            for topic, known in closed.items()
            if topic in witness.topics
            and not witness.has_received_end(topic, known)
            and not self._ledger.may_have_lost(0, monotonic())
        ]

    def _finish_round(self, began_at: float) -> None:
        self.report.rounds += 1
        for witness in self.witnesses:
            witness.settle()
        self._ledger.forget(began_at)
        self.report.counts = self._ledger.counts
        self.report.violations = list(self._ledger.violations)
