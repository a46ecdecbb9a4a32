"""What is said on channels, heard over one connection that is made again whenever it is lost.

Rules: knows channels and bytes; not what a message means. It only hands on (design §4): the one who listens decides what was
missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from broker.stores.redis.address import Address
from broker.stores.redis.link import Link, LinkLost, Reply, ServerError, open_link, pack
from broker.stores.redis.script_pipeline import STOPPING, backoff

CHANNELS_A_COMMAND = 500

_logger = logging.getLogger("broker")


class PubSubReader:
    """See the module.

    Args:
        always: channels that are listened to from the start.
        flowing: while it isn't set nothing is read.
        on_message: called with a channel and the bytes, in the order in which the server said it.
        on_ready: called when a new connection listens to all channels.
        on_lost: called when it is gone: what is said from now on is missed.

    Attributes:
        generation: counts connections.
        run_id: of the server that the present one leads to; "" where there is none.
        is_ready: whether all channels are listened to.
        problem: why not.
    """

    def __init__(
        self,
        address: Address,
        always: Sequence[str],
        *,
        flowing: asyncio.Event,
        on_message: Callable[[bytes, bytes], None],
        on_ready: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.generation = 0
        self.run_id = ""
        self.is_ready = False
        self.problem = "not connected yet"
        self._address = address
        self._flowing = flowing
        self._on_message = on_message
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._channels: dict[bytes, None] = {channel.encode(): None for channel in always}
        self._confirmed: set[bytes] = set()
        self._due: set[bytes] = set()
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        self._changes: dict[bytes, bool] = {}
        self._scheduled = False
        self._link: Link | None = None

    # Channels

    async def subscribe(self, channel: str) -> None:
        """Listen to a channel; on return the server has confirmed it, on the present connection or a later one."""
        name = channel.encode()
        if name in self._confirmed and name in self._channels:
            return
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = self._loop.create_future()
            self._channels[name] = None
            self._change(name, listen=True)
        await asyncio.shield(asked)

    def unsubscribe(self, channel: str) -> None:
        """Listen to a channel no more."""
        name = channel.encode()
        self._channels.pop(name, None)
        self._due.discard(name)
        asked = self._asked.pop(name, None)
        if asked is not None:
            asked.cancel()
        self._change(name, listen=False)

    def _change(self, name: bytes, *, listen: bool) -> None:
        self._changes[name] = listen
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        changes, self._changes = self._changes, {}
        if self._link is not None:
            self._say(self._link, "SUBSCRIBE", [name for name, listen in changes.items() if listen])
            self._say(self._link, "UNSUBSCRIBE", [name for name, listen in changes.items() if not listen])

    @staticmethod
    def _say(link: Link, command: str, names: Iterable[bytes]) -> None:
        left = list(names)
        while left:
            link.write(pack((command, *left[:CHANNELS_A_COMMAND])))
            del left[:CHANNELS_A_COMMAND]

    # The connection

    async def run(self) -> None:
        """Keep a connection, for ever; the one who runs it cancels it."""
        failures = 0
        try:
            while True:
                was_ready = False
                try:
                    await self._use(await open_link(self._address))
                except LinkLost as error:
                    was_ready = self.is_ready
                    self._lost(str(error))
                failures = 0 if was_ready else failures + 1
                await asyncio.sleep(backoff(failures))
        finally:
            self._link = None
            self._lost(STOPPING)
            for asked in self._asked.values():
                asked.cancel()

    def reset(self, why: str) -> None:
        """Give up the present connection, which can't be relied on."""
        if self._link is not None:
            self._link.abort(why)

    async def _use(self, link: Link) -> None:
        self._link = link
        self.run_id = link.run_id
        self.generation += 1
        self._confirmed.clear()
        self._changes.clear()
        self._due = set(self._channels)
        self._say(link, "SUBSCRIBE", self._channels)
        try:
            await link.read(self._said, self._flowing)
        finally:
            await link.close()

    def _said(self, reply: Reply) -> None:
        if isinstance(reply, ServerError):
            _logger.error("the store refuses to be listened to: %s", reply)
            assert self._link is not None
            self._link.abort(str(reply))
            return
        kind, channel, what = reply
        if kind == b"message":
            self._on_message(channel, what)
        elif kind == b"subscribe":
            self._confirm(channel)
        elif kind == b"unsubscribe":
            self._confirmed.discard(channel)

    def _confirm(self, channel: bytes) -> None:
        self._confirmed.add(channel)
        asked = self._asked.pop(channel, None)
        if asked is not None and not asked.done():
            asked.set_result(None)
        self._due.discard(channel)
        if not self.is_ready and not self._due:
            self.is_ready = True
            self.problem = ""
            self._on_ready()

    def _lost(self, why: str) -> None:
        if self._link is not None:
            _logger.warning("the store's channels at %s: %s", self._address.shown, why)
        self._link = None
        self.run_id = ""
        self._confirmed.clear()
        self.problem = why
        if self.is_ready:
            self.is_ready = False
            self._on_lost()
