"""The busiest topics over all instances: by subscribers, by events or by bytes a second.

Rules: no sort of all topics at once, and no look at all of them in one turn of the loop (I9): a scan goes on in slices. Each
instance picks its own busiest ones, and the asker adds them up. So of two topics that are far down on every list, the order may
be wrong. A ranking is kept for two seconds, and for a hundred times as long as it took; so is what an instance answers. So rankings
cost about a hundredth of the time, however many clients ask, and more only if one takes longer than `MAX_KEPT_SECONDS` / 100.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

from broker.errors import Overloaded
from broker.fanout.feed_table import FeedTable
from broker.node.meter import TopicMeter
from broker.node.questions import RETRY_AFTER_SECONDS, Questions
from broker.stores.base import Topics, TopicState

SORTS = ("subscribers", "events", "bytes", "name")
MAX_TOPICS = 200
"""In a ranking."""
SLICE = 2000
"""Topics ranked in one turn of the loop; about 2 ms."""
NAMES = 5000
"""Names searched in one turn."""
KEPT_SECONDS = 2.0
MAX_KEPT_SECONDS = 20.0
"""However long it took: a slow store or a busy loop must not freeze what an operator sees."""
COST_SHARE = 0.01
MAX_KEPT = 32
QUESTION = "busiest"


@dataclass(frozen=True, slots=True)
class RankedTopic:
    """A topic with what the store holds of it, and its rates over all instances."""

    state: TopicState
    events_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Some topics in order.

    Attributes:
        total: how many topics there are.
        matching: how many of them have the searched text in their name.
    """

    topics: Sequence[RankedTopic]
    total: int
    matching: int


class TopicRanking:
    """Ranks topics on request, and answers for this instance when another one does."""

    def __init__(self, topics: Topics, feeds: FeedTable, meter: TopicMeter, questions: Questions) -> None:
        self._topics = topics
        self._feeds = feeds
        self._meter = meter
        self._questions = questions
        self._rankings = _Kept(self._rank, KEPT_SECONDS)
        self._answers = _Kept(self._busiest, 0.0)
        questions.answerers[QUESTION] = self._answer

    async def rank(self, sort: str, search: str) -> Ranking:
        """The first `MAX_TOPICS` topics by `sort`, one of `SORTS`, that have `search` in their name. Raises as `Questions.ask`."""
        return cast("Ranking", await self._rankings.get(sort, search))

    async def stop(self) -> None:
        """Rank no more."""
        await self._rankings.stop()
        await self._answers.stop()

    async def _rank(self, sort: str, search: str) -> tuple[object, float]:
        began_at, waited = perf_counter(), 0.0
        active: Mapping[str, Sequence[float]] = {}
        if sort != "name":
            asked_at = perf_counter()
            active = _summed(await self._questions.ask(QUESTION, sort=sort, search=search))
            waited = perf_counter() - asked_at
        total = await self._topics.count()
        names: Sequence[str] = ()
        matching = total
        if search:
            names, matching = await self._search(search)
        elif len(active) < MAX_TOPICS:
            names = [name for name in await self._topics.names("", MAX_TOPICS) if name[0] != "_"]
        place = SORTS.index(sort)
        first = (
            heapq.nsmallest(MAX_TOPICS, active, key=lambda name: (-active[name][place], name))
            if active
            else []
        )
        rest = [name for name in names if name not in active]
        shown = [*first, *rest][:MAX_TOPICS]
        states = await self._topics.describe(shown)
        nothing = (0.0, 0.0, 0.0)
        topics = [
            RankedTopic(state, active.get(state.topic, nothing)[1], active.get(state.topic, nothing)[2])
            for state in states
        ]
        return Ranking(topics, total, matching), perf_counter() - began_at - waited

    async def _search(self, text: str) -> tuple[Sequence[str], int]:
        """The first names that have `text` in them, and how many there are."""
        found: list[str] = []
        matching, after = 0, ""
        while page := await self._topics.names(after, NAMES):
            hits = [name for name in page if text in name and name[0] != "_"]
            matching += len(hits)
            found += hits[: MAX_TOPICS - len(found)]
            after = page[-1]
            await asyncio.sleep(0)
        return found, matching

    async def _answer(self, about: Mapping[str, object]) -> object:
        """`[topic, subscribers, events a second, bytes a second]` of this instance's busiest."""
        self._meter.keep_on()
        return await self._answers.get(str(about.get("sort")), str(about.get("search", "")))

    async def _busiest(self, sort: str, search: str) -> tuple[object, float]:
        place = SORTS.index(sort) + 1 if sort in SORTS[:3] else 1
        best: dict[
            str, Sequence[object]
        ] = {}  # by topic: a name may come twice, for the meter's window turns meanwhile
        began_at, took = perf_counter(), 0.0
        subscribed = self._feeds.topics()
        names = [*subscribed, *self._meter.topics()]
        for at in range(0, len(names), SLICE):
            some = [
                name
                for index, name in enumerate(names[at : at + SLICE], at)
                if search in name
                and name[0] != "_"
                and (index < len(subscribed) or not self._feeds.count(name))
            ]
            for name, (events, size) in zip(some, self._meter.rates(some), strict=True):
                best[name] = name, self._feeds.count(name), events, size
            rows = heapq.nlargest(
                MAX_TOPICS, best.values(), key=lambda row: (float(cast("float", row[place])), str(row[0]))
            )
            best = {str(row[0]): row for row in rows}
            took += perf_counter() - began_at
            await asyncio.sleep(0)
            began_at = perf_counter()
        return list(best.values()), took


class _Kept:
    """Results by `sort` and `search`: each is made once for all that ask, and kept for longer the more it cost.

    Args:
        make: makes a result, and says how many seconds it took.
        seconds: how long one is kept at least.
    """

    def __init__(
        self, make: Callable[[str, str], Coroutine[Any, Any, tuple[object, float]]], seconds: float
    ) -> None:
        self._make = make
        self._seconds = seconds
        self._kept: dict[
            tuple[str, str], tuple[float, asyncio.Task[tuple[object, float]]]
        ] = {}  # with until when it is kept

    async def get(self, sort: str, search: str) -> object:
        """The result. Raises `Overloaded` if too many are being made, and what `make` raises."""
        key, now = (sort, search), asyncio.get_running_loop().time()
        kept = self._kept.get(key)
        if kept is None or (kept[1].done() and now >= kept[0]):
            self._make_room()
            task = asyncio.create_task(self._make(sort, search), name="broker ranking")
            kept = self._kept[key] = now + self._seconds, task
            task.add_done_callback(lambda done: self._done(key, done))
        return (await asyncio.shield(kept[1]))[0]

    def _make_room(self) -> None:
        for key, (_, task) in list(self._kept.items()):
            if len(self._kept) >= MAX_KEPT and task.done():
                del self._kept[key]
        if len(self._kept) >= MAX_KEPT:
            raise Overloaded("Too many searches at once.", retry_after=RETRY_AFTER_SECONDS)

    def _done(self, key: tuple[str, str], task: asyncio.Task[tuple[object, float]]) -> None:
        """Keep the result for as long as it has earned; a failed one not at all."""
        failed = task.cancelled() or task.exception() is not None
        kept = self._kept.get(key)
        if kept is None or kept[1] is not task:
            return  # its successor has come between its end and this call
        if failed:
            del self._kept[key]
        else:
            seconds = max(self._seconds, min(MAX_KEPT_SECONDS, task.result()[1] / COST_SHARE))
            self._kept[key] = asyncio.get_running_loop().time() + seconds, task

    async def stop(self) -> None:
        """Make no more."""
        tasks = [task for _, task in self._kept.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _summed(answers: Sequence[object]) -> dict[str, list[float]]:
    """The instances' figures by topic, added up."""
    total: dict[str, list[float]] = {}
    for answer in answers:
        for name, *figures in cast("Sequence[Sequence[object]]", answer):
            so_far = total.setdefault(str(name), [0.0, 0.0, 0.0])
            for place, figure in enumerate(figures[:3]):
                so_far[place] += float(cast("float", figure))
    return total
