"""A pipeline of a store under test, watched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from broker.stores.redis.script_pipeline import ScriptPipeline
from broker.stores.redis.scripts import Script


class WatchedCalls:
    """Passes calls on to `pipeline`.

    Attributes:
        keys: the number of keys of each call, by script.
        commands: how many plain commands were called.
        most_waiting: the most calls that waited for their replies at once.
    """

    def __init__(self, pipeline: ScriptPipeline) -> None:
        self.keys: dict[str, list[int]] = {}
        self.commands = self.most_waiting = 0
        self._pipeline = pipeline
        self._waiting = 0

    def command(self, *args: Any) -> Awaitable[Any]:
        self.commands += 1
        return self._pipeline.command(*args)

    def call(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], **options: Any
    ) -> Awaitable[Any]:
        self.keys.setdefault(script.name, []).append(len(keys))
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        reply = self._pipeline.call(script, keys, args, **options)
        assert isinstance(reply, asyncio.Future)
        reply.add_done_callback(self._done)
        return reply

    def _done(self, _reply: asyncio.Future[Any]) -> None:
        self._waiting -= 1
