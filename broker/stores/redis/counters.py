"""How many of something there are under a name, over all instances: subscribers of a topic, streams of an address.

Rules: numbers that are looked at, never relied on. Each instance writes its own, what has changed twice a second, under a key
that goes when the instance does; the numbers of all are added up by who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Sequence

from broker.errors import Unavailable
from broker.stores.redis.link import Argument
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline

PERIOD_SECONDS = 0.5
LIFE_MS = 10_000
RENEW_SECONDS = 3.0
TOPICS_A_COMMAND = 500
FAREWELL_SECONDS = 0.5


class Counters:
    """See the module.

    Args:
        kind: what is counted, as part of the keys.
    """

    def __init__(self, names: Names, calls: ScriptPipeline, kind: str = "subs") -> None:
        self._names = names
        self._calls = calls
        self._kind = kind
        self._instances = names.key("instances") if kind == "subs" else names.key("instances", kind)
        self._own = names.key(kind, names.instance)
        self._neighbours: Sequence[str] = ()
        self._neighbours_at = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = {}
        self._changed: set[str] = set()
        self._written: set[str] = set()
        self._renewed_at = -RENEW_SECONDS

    def set_count(self, name: str, count: int) -> None:
        """How many there are here now."""
        if count:
            self._counts[name] = count
            self._changed.add(name)
        else:
            self._counts.pop(name, None)
            if name in self._written:
                self._changed.add(name)
            else:  # else names of those who were refused would pile up while there is no server
                self._changed.discard(name)

    def write_all(self) -> None:
        """What was written may be gone."""
        self._changed.update(self._counts)
        self._renewed_at = -RENEW_SECONDS

    async def run(self) -> None:
        """Write what has changed, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            due = loop.time() - self._renewed_at >= RENEW_SECONDS
            if not self._changed and not (due and self._written):
                continue
            changed, self._changed = self._changed, set()
            try:
                await self._write(changed)
                if due and not await self._renew() and self._counts:
                    self.write_all()
                elif due:
                    self._renewed_at = loop.time()
            except Unavailable:
                self._changed |= changed

    async def _write(self, topics: set[str]) -> None:
        here = [topic for topic in topics if topic in self._counts]
        gone = [topic for topic in topics if topic not in self._counts]
        self._written.update(here)
        for at in range(0, len(here), TOPICS_A_COMMAND):
            pairs: list[Argument] = []
            for topic in here[at : at + TOPICS_A_COMMAND]:
                pairs += (topic, self._counts.get(topic, 0))
            await self._calls.command("HSET", self._own, *pairs)
        if here:
            await self._calls.command("PEXPIRE", self._own, LIFE_MS)
            await self._calls.command("SADD", self._instances, self._names.instance)
        for at in range(0, len(gone), TOPICS_A_COMMAND):
            some = gone[at : at + TOPICS_A_COMMAND]
            await self._calls.command("HDEL", self._own, *some)
            self._written -= {topic for topic in some if topic not in self._counts}

    async def _renew(self) -> bool:
        """Whether what was written is still there."""
        await self._calls.command("SADD", self._instances, self._names.instance)
        return bool(await self._calls.command("PEXPIRE", self._own, LIFE_MS))

    async def leave(self) -> None:
        """Take back what was written; where that can't be done it goes by itself."""
        with contextlib.suppress(Unavailable):
            await self._calls.command("DEL", self._own, seconds=FAREWELL_SECONDS)
            await self._calls.command("SREM", self._instances, self._names.instance, seconds=FAREWELL_SECONDS)

    async def counts(self, topics: Sequence[str]) -> Sequence[int]:
        """Subscribers of each of `topics`, everywhere; at most two periods old."""
        total: Counter[str] = Counter()
        for instance in await self._others():
            await self._add(total, instance, topics)
        return [total[topic] + self._counts.get(topic, 0) for topic in topics]

    async def counts_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        """The same on the other instances alone; which those are is asked for once a second."""
        if asyncio.get_running_loop().time() - self._neighbours_at > PERIOD_SECONDS:
            await self._look_around()
        total: Counter[str] = Counter()
        await asyncio.gather(*(self._add(total, instance, names) for instance in self._neighbours))
        return [total[name] for name in names]

    async def _look_around(self) -> None:
        """One look for all who want one at the same time; raises `Unavailable` for each of them."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(_looked)
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        try:
            self._neighbours = await self._others()
            self._neighbours_at = asyncio.get_running_loop().time()
        finally:
            self._looking = None

    async def _add(self, total: Counter[str], instance: str, names: Sequence[str]) -> None:
        found = await self._calls.command("HMGET", self._names.key(self._kind, instance), *names)
        for name, count in zip(names, found, strict=True):
            total[name] += int(count or 0)

    async def topics(self) -> set[str]:
        """Those that have subscribers somewhere."""
        found = set(self._counts)
        for instance in await self._others():
            found.update(
                name.decode()
                for name in await self._calls.command("HKEYS", self._names.key(self._kind, instance))
            )
        return found

    async def _others(self) -> Sequence[str]:
        """The instances beside this one that have subscribers; who has gone without a word is struck off."""
        members = await self._calls.command("SMEMBERS", self._instances)
        others = [name.decode() for name in members if name.decode() != self._names.instance]
        alive = []
        for instance in others:
            if await self._calls.command("EXISTS", self._names.key(self._kind, instance)):
                alive.append(instance)
            else:
                await self._calls.command("SREM", self._instances, instance)
        return alive


def _looked(look: asyncio.Task[None]) -> None:
    """Whoever waits for it hears how it failed; if nobody does any more, nobody needs to."""
    if not look.cancelled():
        look.exception()
