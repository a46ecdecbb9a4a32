"""Counts by name over all instances, such as the subscribers of a topic or the streams of an address.

Rules: for display and limits; never exact. Each instance writes its own counts, the changed ones twice a second, to a hash that
expires when the instance is gone. Readers add up the hashes of all instances.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from sortedcontainers import SortedDict

from broker.errors import Unavailable
from broker.stores.redis.link import Argument
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.task_owner import mark_retrieved

PERIOD_SECONDS = 0.5
LIFE_MS = 1500  # with a reader's period, the counts of a killed instance are gone after 2 s
INSTANCES_LIFE_MS = 60_000
NAMES_PER_COMMAND = 500
NAMES_AT_ONCE = 2000
"""That are decoded, or sorted, in one turn of the loop."""
NAMES_SECONDS = 1.0
LEAVE_SECONDS = 0.5

_WRITE = """
local is_there = redis.call('PEXPIRE', KEYS[1], ARGV[1])
if ARGV[4] then
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return is_there
"""
"""Write some counts, perhaps none, and put off the expiry. Returns 1 if the hash was there.

A server without memory allows the first write, and then refuses no later one.
"""


class RedisCounters:
    """Implements `stores.base.Counters`.

    Args:
        kind: part of the keys: "subs" for subscribers by topic, "held" for `Store.counters`.
    """

    def __init__(self, names: Names, pipeline: ScriptPipeline, kind: str) -> None:
        self._names = names
        self._pipeline = pipeline
        self._kind = kind
        self._instances = names.key("instances") if kind == "subs" else names.key("instances", kind)
        self._own = names.key(kind, names.instance)
        self._others: Sequence[str] = ()
        self._others_read_at = -math.inf
        self._others_task: asyncio.Task[None] | None = None
        self._others_names: Sequence[str] = ()
        self._names_read_at = -math.inf
        self._names_task: asyncio.Task[None] | None = None
        self._counts: SortedDict[str, int] = SortedDict()  # by name, so that a page of names costs little
        self._changed: set[str] = set()  # names to write or delete
        self._written: set[str] = set()  # names that the server has
        self._connection = 0

    def set_count(self, name: str, count: int) -> None:
        if count:
            self._counts[name] = count
            self._changed.add(name)
            return
        self._counts.pop(name, None)
        if name in self._written:
            self._changed.add(name)
        else:  # without a server, the names of refused subscribers must not pile up
            self._changed.discard(name)

    async def run(self) -> None:
        """Write changed counts until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            if self._pipeline.connector.connections != self._connection:  # perhaps to another server
                self._connection = self._pipeline.connector.connections
                self._write_all()
            if not self._changed and not self._written:
                continue
            changed: set[str] = set()
            try:
                is_there = await self._write_pairs(())
                if not is_there:  # it has expired: the server was away, or this instance was stopped
                    self._write_all()
                changed, self._changed = self._changed, set()
                await self._write(changed, is_there=is_there)
            except Unavailable:
                self._changed |= changed

    def _write_all(self) -> None:
        """Write all counts again; the server may have lost them."""
        self._changed.update(self._counts)

    async def _write(self, names: set[str], *, is_there: bool) -> None:
        """Write some counts. If `is_there`, the hash held all others; if it is lost meanwhile, all are written again."""
        present = [name for name in names if name in self._counts]
        gone = [name for name in names if name not in self._counts]
        self._written.update(present)
        for at in range(0, len(present), NAMES_PER_COMMAND):
            pairs: list[Argument] = []
            for name in present[at : at + NAMES_PER_COMMAND]:
                pairs += (name, self._counts.get(name, 0))
            if not await self._write_pairs(pairs) and is_there:
                self._write_all()
            is_there = True
        for at in range(0, len(gone), NAMES_PER_COMMAND):
            some = gone[at : at + NAMES_PER_COMMAND]
            await self._pipeline.command("HDEL", self._own, *some)
            self._written -= {name for name in some if name not in self._counts}

    async def _write_pairs(self, pairs: Sequence[Argument]) -> bool:
        """Write names and counts in turn, perhaps none, and put off the expiry. False if the hash was gone."""
        keys = self._own, self._instances
        args = LIFE_MS, self._names.instance, INSTANCES_LIFE_MS, *pairs
        return bool(await self._pipeline.command("EVAL", _WRITE, len(keys), *keys, *args))

    async def leave(self) -> None:
        """Delete this instance's counts."""
        with contextlib.suppress(Unavailable):
            await self._pipeline.command("DEL", self._own, seconds=LEAVE_SECONDS)
            await self._pipeline.command("SREM", self._instances, self._names.instance, seconds=LEAVE_SECONDS)

    async def counts(self, names: Sequence[str]) -> Sequence[int]:
        """The counts of `names` on all instances, summed; at most two periods old."""
        total: Counter[str] = Counter()
        for instance in await self._read_others():
            await self._add(total, instance, names)
        return [total[name] + self._counts.get(name, 0) for name in names]

    async def counts_elsewhere(self, names: Sequence[str]) -> Sequence[int]:
        if asyncio.get_running_loop().time() - self._others_read_at > PERIOD_SECONDS:
            await self._refresh_others()
        total: Counter[str] = Counter()
        await asyncio.gather(*(self._add(total, instance, names) for instance in self._others))
        return [total[name] for name in names]

    async def _refresh_others(self) -> None:
        """Read the other instances' counts. Concurrent callers share one read."""
        if self._others_task is None:
            self._others_task = asyncio.create_task(self._store_others())
            self._others_task.add_done_callback(mark_retrieved)
        await asyncio.shield(self._others_task)

    async def _store_others(self) -> None:
        try:
            self._others = await self._read_others()
            self._others_read_at = asyncio.get_running_loop().time()
        finally:
            self._others_task = None

    async def _add(self, total: Counter[str], instance: str, names: Sequence[str]) -> None:
        found = await self._pipeline.command("HMGET", self._names.key(self._kind, instance), *names)
        for name, count in zip(names, found, strict=True):
            total[name] += int(count or 0)

    async def names_after(self, after: str, limit: int) -> Sequence[str]:
        """The first `limit` names after `after` that have a count on some instance, sorted; those of others at most two seconds old.

        Others' names are kept for a second: there may be a hundred thousand, and a search pages through all of them.
        """
        if asyncio.get_running_loop().time() - self._names_read_at > NAMES_SECONDS:
            if self._names_task is None:
                self._names_task = asyncio.create_task(self._store_names())
                self._names_task.add_done_callback(mark_retrieved)
            await asyncio.shield(self._names_task)
        begin = bisect_right(self._others_names, after)
        own = islice(self._counts.irange(after, inclusive=(False, True)), limit)
        return sorted({*own, *self._others_names[begin : begin + limit]})[:limit]

    async def _store_names(self) -> None:
        try:
            found: list[str] = []
            for instance in await self._read_others():
                names = await self._pipeline.command("HKEYS", self._names.key(self._kind, instance))
                for at in range(0, len(names), NAMES_AT_ONCE):
                    found += map(bytes.decode, names[at : at + NAMES_AT_ONCE])
                    await asyncio.sleep(0)
            self._others_names = await _sorted(found)
            self._names_read_at = asyncio.get_running_loop().time()
        finally:
            self._names_task = None

    async def _read_others(self) -> Sequence[str]:
        """The other instances that have counts; those with an expired hash are removed from the set."""
        members = await self._pipeline.command("SMEMBERS", self._instances)
        others = [name.decode() for name in members if name.decode() != self._names.instance]
        alive = []
        for instance in others:
            if await self._pipeline.command("EXISTS", self._names.key(self._kind, instance)):
                alive.append(instance)
            else:
                await self._pipeline.command("SREM", self._instances, instance)
        return alive


async def _sorted(names: Sequence[str]) -> Sequence[str]:
    """Each of `names` once, sorted. Other tasks run in between."""
    runs = []
    for at in range(0, len(names), NAMES_AT_ONCE):
        runs.append(sorted(names[at : at + NAMES_AT_ONCE]))
        await asyncio.sleep(0)
    merged: list[str] = []
    for index, name in enumerate(heapq.merge(*runs), 1):
        if not merged or merged[-1] != name:
            merged.append(name)
        if not index % NAMES_AT_ONCE:
            await asyncio.sleep(0)
    return merged
