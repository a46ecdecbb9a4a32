"""Commands to all instances.

Rules: commands are text; only the store's owner knows their meaning. All go out on one channel. A command with
an `until` is also kept in a sorted set, for instances that start later or were disconnected. If the server has lost
a kept command, an instance that knows the command writes it again.

Droppable commands have a set and a share of their own, so that they never keep others out. A payload is three lines: the
instance, until when the command is kept (0 if it isn't), and the command. A `+` before the time says that the command is
droppable; older versions take it for a part of the number.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from broker.errors import RateLimited
from broker.events import Clock
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.kept_commands import KeptCommands
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Script

MAX_KEPT = 100_000
MAX_KEPT_BYTES = 32 << 20
MAX_DROPPABLE = 10_000
MAX_DROPPABLE_BYTES = 4 << 20
COMMANDS_AT_ONCE = 500
MAX_SWEEP = 1000
RETRY_AFTER_SECONDS = 60


class RedisBroadcast:
    """Implements `stores.base.Broadcast`.

    Attributes:
        is_complete: whether the kept commands were read since this instance subscribed.
        lasting, droppable: the kept commands that this instance knows.
    """

    def __init__(
        self, names: Names, script: Script, pipeline: ScriptPipeline, clock: Clock, delivery: Delivery
    ) -> None:
        self.is_complete = False
        self.lasting = KeptCommands(MAX_KEPT, MAX_KEPT_BYTES)
        self.droppable = KeptCommands(MAX_DROPPABLE, MAX_DROPPABLE_BYTES)
        self._disconnects = 0
        self._instance = names.instance
        self._channel = names.broadcast_channel
        self._lasting_keys = names.keys("state", "notices")
        self._droppable_keys = names.keys("state", "droppable")
        self._script = script
        self._pipeline = pipeline
        self._clock = clock
        self._delivery = delivery

    async def send(self, command: str, until: float | None = None, *, droppable: bool = False) -> int:
        kept_until = "" if until is None else f"{until:.3f}"
        if kept_until and not droppable:
            self._check_room(command)
        mark = "+" if droppable else ""
        payload = f"{self._instance}\n{mark}{kept_until or 0}\n{command}"
        sent, reached = await self._call(command, kept_until, droppable, self._channel, payload)
        if not sent:
            raise _too_many(f"{MAX_KEPT} kept commands")
        if kept_until:
            self._share(droppable).add(command, float(kept_until), self._clock())
        self._delivery.owner.on_broadcast(command)
        return max(1, reached)

    def _share(self, droppable: bool) -> KeptCommands:
        return self.droppable if droppable else self.lasting

    def _check_room(self, command: str) -> None:
        """The server bounds the number; the bytes are bounded by the commands that this instance knows."""
        self.lasting.remove_expired(self._clock(), MAX_SWEEP)
        if self.lasting.bytes + len(command) > MAX_KEPT_BYTES:
            raise _too_many(f"{MAX_KEPT_BYTES} bytes of kept commands")

    async def _call(
        self, command: str, kept_until: str, droppable: bool, channel: str = "", payload: str = ""
    ) -> tuple[bool, int]:
        """Keep `command`, if it has a `kept_until`, and publish it, if there is a `channel`. False: too many are kept.

        The number is that of the instances it was published to.
        """
        keys = self._droppable_keys if droppable else self._lasting_keys
        most = MAX_DROPPABLE if droppable else MAX_KEPT
        args = (channel, payload, command, kept_until, f"{self._clock():.3f}", most, int(droppable))
        reply = await self._pipeline.call(self._script, keys, args)
        return bool(reply[2]), int(reply[3])

    def receive(self, payload: bytes) -> None:
        """Handle a payload. Raises `ValueError` if no instance published it."""
        instance, until, command = payload.decode().split("\n", 2)
        if instance != self._instance:
            self._take(command, float(until), droppable=until.startswith("+"))

    def _take(self, command: str, until: float, *, droppable: bool) -> None:
        kept = self._share(droppable)
        is_known = command in kept
        if until:
            kept.add(command, until, self._clock())
        if not is_known:
            self._delivery.owner.on_broadcast(command)

    def disconnected(self) -> None:
        """Commands may be missed from now on."""
        self.is_complete = False
        self._disconnects += 1

    async def read_kept(self) -> None:
        """Read the kept commands, and write those that the server lacks. Raises `Unavailable`."""
        disconnects = self._disconnects
        await self._read_kept(droppable=False)
        await self._read_kept(droppable=True)
        self.is_complete = disconnects == self._disconnects

    async def _read_kept(self, *, droppable: bool) -> None:
        """In slices, so that the loop stays responsive.

        An expired droppable command may still be on the server, but comes too late. An expired other one is harmless, and
        perhaps only this instance's clock says that it has expired.
        """
        now = self._clock()
        missing = self._share(droppable).valid(now)
        key = (self._droppable_keys if droppable else self._lasting_keys)[1]
        least = f"({now:.3f}" if droppable else "-inf"
        found = await self._pipeline.command("ZRANGEBYSCORE", key, least, "+inf", "WITHSCORES")
        entries = zip(found[::2], found[1::2], strict=True)
        while page := list(islice(entries, COMMANDS_AT_ONCE)):
            for command, until in page:
                missing.pop(command.decode(), None)
                self._take(command.decode(), float(until), droppable=droppable)
            await asyncio.sleep(0)
        left = iter(missing.items())
        while some := list(islice(left, COMMANDS_AT_ONCE)):
            calls = (self._call(command, f"{until:.3f}", droppable) for command, until in some)
            await asyncio.gather(*calls)

    def sweep(self) -> None:
        """Forget expired commands; called about once a second."""
        now = self._clock()
        self.lasting.remove_expired(now, MAX_SWEEP)
        self.droppable.remove_expired(now, MAX_SWEEP)


def _too_many(limit: str) -> RateLimited:
    return RateLimited(
        f"The limit of {limit} is reached; give each an earlier expiry.", retry_after=RETRY_AFTER_SECONDS
    )
