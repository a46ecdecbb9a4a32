"""Commands to all instances.

Rules: commands are text; only the store's owner knows their meaning. All go out on one channel. A command with
an `until` is also kept in a sorted set, for instances that start later or were disconnected. If the server has lost
a kept command, an instance that knows the command writes it again.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from broker.errors import RateLimited
from broker.events import Clock
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.names import Names
from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Script

MAX_KEPT = 100_000
COMMANDS_AT_ONCE = 500
MAX_SWEEP = 1000
RETRY_AFTER_SECONDS = 60


class RedisBroadcast:
    """Implements `stores.base.Broadcast`.

    Attributes:
        is_complete: whether the kept commands were read since this instance subscribed.
    """

    def __init__(
        self, names: Names, script: Script, pipeline: ScriptPipeline, clock: Clock, delivery: Delivery
    ) -> None:
        self.is_complete = False
        self._instance = names.instance
        self._channel = names.broadcast_channel
        self._key = names.key("notices")
        self._keys = names.keys("state", "notices")
        self._script = script
        self._pipeline = pipeline
        self._clock = clock
        self._delivery = delivery
        self._kept: dict[str, float] = {}

    async def send(self, command: str, until: float | None = None) -> int:
        payload = f"{self._instance}\n{until or 0:.3f}\n{command}"
        sent, reached = await self._call(command, until, self._channel, payload)
        if not sent:
            raise RateLimited(
                f"The limit of {MAX_KEPT} kept commands is reached; give each an earlier expiry.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if until is not None:
            self._kept[command] = until
        self._delivery.owner.on_broadcast(command)
        return max(1, reached)

    async def _call(
        self, command: str, until: float | None, channel: str = "", payload: str = ""
    ) -> tuple[bool, int]:
        """Keep `command`, if it has an `until`, and publish it, if there is a `channel`. False: too many are kept.

        The number is that of the instances it was published to.
        """
        kept_until = "" if until is None else f"{until:.3f}"
        args = (channel, payload, command, kept_until, f"{self._clock():.3f}", MAX_KEPT)
        reply = await self._pipeline.call(self._script, self._keys, args)
        return bool(reply[2]), int(reply[3])

    def receive(self, payload: bytes) -> None:
        """Handle a payload. Raises `ValueError` if no instance published it."""
        instance, until, command = payload.decode().split("\n", 2)
        if instance != self._instance:
            self._take(command, float(until))

    def _take(self, command: str, until: float) -> None:
        is_known = command in self._kept
        if until:
            self._kept[command] = max(until, self._kept.get(command, 0.0))
        if not is_known:
            self._delivery.owner.on_broadcast(command)

    def disconnected(self) -> None:
        """Commands may be missed from now on."""
        self.is_complete = False

    async def read_kept(self) -> None:
        """Read the kept commands, and write those that the server lacks. Raises `Unavailable`."""
        now = self._clock()
        missing = {command: until for command, until in self._kept.items() if until > now}
        found = await self._pipeline.command("ZRANGEBYSCORE", self._key, "-inf", "+inf", "WITHSCORES")
        for command, until in zip(found[::2], found[1::2], strict=True):
            missing.pop(command.decode(), None)
            self._take(command.decode(), float(until))
        left = iter(missing.items())
        while some := list(islice(left, COMMANDS_AT_ONCE)):
            await asyncio.gather(*(self._call(command, until) for command, until in some))
        self.is_complete = True

    def sweep(self) -> None:
        now = self._clock()
        for command in list(islice(self._kept, MAX_SWEEP)):
            until = self._kept.pop(command)
            if until > now:
                self._kept[command] = until  # at the end, so that the next sweep looks at others
