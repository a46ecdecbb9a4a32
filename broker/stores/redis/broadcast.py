"""What one instance tells all of them, beside events.

Rules: text; knows no meaning of it. A notice is heard on a channel of its own by whoever listens then. One that is kept is also
written down until its time is over: instances that begin later, or were deaf, read it when they listen again, and who knows
of it writes it down again in a server that has lost it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from broker.errors import RateLimited
from broker.events import Clock
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline

MOST_KEPT = 100_000
SWEEP_MOST = 1000
RETRY_AFTER_SECONDS = 60


class RedisBroadcast:
    """See the module.

    Args:
        clock: seconds since 1970.
        on_broadcast: called once with each notice.

    Attributes:
        is_whole: whether all that is kept was read since this instance listens.
    """

    def __init__(
        self, names: Names, calls: ScriptPipeline, clock: Clock, on_broadcast: Callable[[str], None]
    ) -> None:
        self.is_whole = False
        self._names = names
        self._key = names.key("notices")
        self._calls = calls
        self._clock = clock
        self._on_broadcast = on_broadcast
        self._kept: dict[str, float] = {}

    async def send(self, notice: str, until: float | None = None) -> None:
        """See `stores.base.Broadcast.send`."""
        if until is not None:
            await self._make_room()
            await self._calls.command("ZADD", self._key, "GT", f"{until:.3f}", notice)
            self._kept[notice] = until
        message = f"{self._names.instance}\n{until or 0:.3f}\n{notice}"
        await self._calls.command("PUBLISH", self._names.notice_channel, message)
        self._on_broadcast(notice)

    async def _make_room(self) -> None:
        await self._calls.command("ZREMRANGEBYSCORE", self._key, "-inf", f"{self._clock():.3f}")
        if int(await self._calls.command("ZCARD", self._key)) >= MOST_KEPT:
            raise RateLimited(
                f"More than {MOST_KEPT} such orders are remembered; name when each may be forgotten.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def heard(self, data: bytes) -> None:
        """A message on the channel. Raises `ValueError` where none of ours said it."""
        who, until, notice = data.decode().split("\n", 2)
        if who != self._names.instance:
            self._take(notice, float(until))

    def _take(self, notice: str, until: float) -> None:
        is_known = notice in self._kept
        if until:
            self._kept[notice] = max(until, self._kept.get(notice, 0.0))
        if not is_known:
            self._on_broadcast(notice)

    def disconnected(self) -> None:
        """From now on something may be missed."""
        self.is_whole = False

    async def catch_up(self) -> None:
        """Read what is kept, and write down what is missing there. Raises `Unavailable`."""
        now = self._clock()
        missing = {notice: until for notice, until in self._kept.items() if until > now}
        found = await self._calls.command("ZRANGEBYSCORE", self._key, f"({now:.3f}", "+inf", "WITHSCORES")
        for notice, until in zip(found[::2], found[1::2], strict=True):
            missing.pop(notice.decode(), None)
            self._take(notice.decode(), float(until))
        for notice, until in missing.items():
            await self._calls.command("ZADD", self._key, "GT", f"{until:.3f}", notice)
        self.is_whole = True

    def sweep(self) -> None:
        """One short step of forgetting those whose time is over."""
        now = self._clock()
        for notice in list(islice(self._kept, SWEEP_MOST)):
            until = self._kept.pop(notice)
            if until > now:
                self._kept[notice] = until  # at the end of the line, so that all have their turn
