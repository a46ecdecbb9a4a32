"""Reads pages of topics' logs from the store: one script call reads what hundreds of readings ask for.

Rules: owns the tasks that read. Knows requests and pages; `readings` knows their purpose.

A page is bounded in bytes, and in entries too, since a call must not keep the server from others for long. All topics of a
call share one page's room, so a topic may get none of it; it comes first in the next call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from broker.errors import Unavailable
from broker.events import EventId, format_id
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import StoreHistory, TopicPage, decode_page, decode_read
from broker.stores.redis.link import Argument, Reply
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Script
from broker.stores.redis.task_owner import TaskOwner
from broker.topics import RetentionRules

PAGE_BYTES = 256 << 10
PAGE_ENTRIES = 500  # 2 ms of the server
TOPICS_PER_CALL = 250
MAX_CALLS = 2  # one runs on the server while the reply to another is decoded
RETRY_SECONDS = 0.1


class PageRequest(NamedTuple):
    """A range of a topic's log.

    Attributes:
        after: the range begins after this id; None for no entries.
        upto: the last id of the range; None for the log's end.
        newest: 0 for the oldest entries of the range; else at most so many, the newest.
    """

    after: EventId | None
    upto: EventId | None = None
    newest: int = 0


class Reading(Protocol):
    """Reads one topic, page by page. `PageReader` calls its methods."""

    @property
    def topic(self) -> str: ...

    def request(self) -> PageRequest | None:
        """The next page to read. None ends the reading, until it is added again."""

    def take(self, last: EventId, history: StoreHistory, page: TopicPage) -> bool:
        """Take the page, read when `last` was the store's last id. Returns whether to read on."""

    def fail(self, error: Unavailable) -> bool:
        """The page couldn't be read. Returns whether to try again."""


class PageReader:
    """Reads for all readings that were added, those that came first first."""

    def __init__(
        self,
        names: Names,
        script: Script,
        calls: ScriptPipeline,
        retention: RetentionRules,
        delivery: Delivery,
        tasks: TaskOwner,
    ) -> None:
        self._names = names
        self._script = script
        self._calls = calls
        self._retention = retention
        self._flowing = delivery.flowing
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._state_key = names.key("state")
        self._queue: OrderedDict[Reading, None] = OrderedDict()
        self._in_flight: set[Reading] = set()
        self._workers = 0
        self._is_start_scheduled = False

    def add(self, reading: Reading) -> None:
        """Read for `reading` until it ends. Harmless if this is so already."""
        if reading in self._in_flight:
            return
        self._queue[reading] = None
        if not self._is_start_scheduled and self._workers < MAX_CALLS:
            self._is_start_scheduled = True
            self._loop.call_soon(self._start_workers)

    def discard(self, reading: Reading) -> None:
        """Read no more for `reading`; a page that is on its way is dropped."""
        self._queue.pop(reading, None)
        self._in_flight.discard(reading)

    def _start_workers(self) -> None:
        self._is_start_scheduled = False
        wanted = -(-len(self._queue) // TOPICS_PER_CALL)
        for _ in range(min(wanted, MAX_CALLS - self._workers)):
            self._workers += 1
            self._tasks.spawn(self._work())

    async def _work(self) -> None:
        try:
            while True:
                await self._flowing.wait()
                batch = self._next_batch()
                if not batch:
                    return
                try:
                    reply = await self._call(list(batch.items()))
                except Unavailable as error:
                    await self._fail(batch, error)
                else:
                    self._take(batch, reply)
        finally:
            self._workers -= 1

    def _next_batch(self) -> dict[Reading, PageRequest]:
        batch: dict[Reading, PageRequest] = {}
        while self._queue and len(batch) < TOPICS_PER_CALL:
            reading, _ = self._queue.popitem(last=False)
            request = reading.request()
            if request is not None:
                batch[reading] = request
        self._in_flight.update(batch)
        return batch

    async def _call(self, batch: Sequence[tuple[Reading, PageRequest]]) -> Reply:
        keys: list[Argument] = [self._state_key]
        args: list[Argument] = ["", PAGE_BYTES, PAGE_ENTRIES, len(batch)]
        for reading, request in batch:
            keys += self._names.topic_keys(reading.topic)
            args += (
                "$" if request.after is None else format_id(request.after),
                "+" if request.upto is None else format_id(request.upto),
                int(self._retention.of(reading.topic).seconds * 1000),
                request.newest,
            )
        return await self._calls.call(self._script, keys, args)

    def _take(self, batch: dict[Reading, PageRequest], reply: Reply) -> None:
        read = decode_read(reply)
        for (reading, request), part in zip(batch.items(), read.parts, strict=True):
            if reading not in self._in_flight:  # discarded
                continue
            self._in_flight.discard(reading)
            page = decode_page(part, read.forgotten, newest_first=request.newest > 0)
            if page.more and not page.entries:
                self._queue[reading] = None
                self._queue.move_to_end(reading, last=False)
            elif reading.take(read.last, read.history, page):
                self._queue[reading] = None

    async def _fail(self, batch: dict[Reading, PageRequest], error: Unavailable) -> None:
        again = [reading for reading in batch if reading in self._in_flight and reading.fail(error)]
        await asyncio.sleep(RETRY_SECONDS)
        for reading in again:
            if reading in self._in_flight:
                self._queue[reading] = None
        self._in_flight.difference_update(batch)
