"""Receives pub/sub payloads over one connection that is made again whenever it is lost.

Rules: knows channels and bytes; not the meaning of payloads. It only passes them on (design §4): its handler decides which were missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from broker.stores.redis.address import Address
from broker.stores.redis.connector import STOPPING, reconnect_backoff
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.link import Link, LinkLost, Reply, ServerError, open_link, pack

CHANNELS_PER_COMMAND = 500

_logger = logging.getLogger("broker")


class PubSubHandler(Protocol):
    """Handles what a `PubSubReader` receives."""

    def receive(self, channel: bytes, payload: bytes) -> None:
        """Handle the next payload."""

    def subscribed(self) -> None:
        """A new connection is subscribed to all channels."""

    def disconnected(self) -> None:
        """Payloads are missed from now on."""


class PubSubReader:
    """Reads pub/sub payloads.

    Args:
        channels: subscribed to from the start.

    Attributes:
        generation: counts connections.
        run_id: the id of the present server's process; "" without one.
        is_ready: whether all channels are subscribed to.
        problem: why they are not, without addresses.
    """

    def __init__(self, address: Address, channels: Sequence[str], delivery: Delivery) -> None:
        self.generation = 0
        self.run_id = ""
        self.is_ready = False
        self.problem = "not connected yet"
        self._address = address
        self._flowing = delivery.flowing
        self._handler: PubSubHandler | None = None
        self._loop = asyncio.get_running_loop()
        self._channels: dict[bytes, None] = {channel.encode(): None for channel in channels}
        self._confirmed: set[bytes] = set()
        self._unconfirmed: set[bytes] = set()  # of a new connection that isn't ready yet
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._changes: dict[bytes, bool] = {}  # whether to subscribe, by channel
        self._is_flush_scheduled = False
        self._link: Link | None = None

    # Channels

    def subscribe(self, channel: str) -> asyncio.Future[None]:
        """Subscribe to a channel.

        Returns a future of all callers, done once the server has confirmed it on the present connection or a later one, and
        cancelled by `unsubscribe`.
        """
        name = channel.encode()
        confirmed = self._waiting.get(name)
        if confirmed is None:
            confirmed = self._loop.create_future()
            if name in self._confirmed and name in self._channels:
                confirmed.set_result(None)
                return confirmed
            self._waiting[name] = confirmed
            self._channels[name] = None
            self._change(name, subscribe=True)
        return confirmed

    def unsubscribe(self, channel: str) -> None:
        """Leave a channel."""
        name = channel.encode()
        self._channels.pop(name, None)
        self._unconfirmed.discard(name)
        confirmed = self._waiting.pop(name, None)
        if confirmed is not None:
            confirmed.cancel()
        self._change(name, subscribe=False)

    def _change(self, name: bytes, *, subscribe: bool) -> None:
        self._changes[name] = subscribe
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        changes, self._changes = self._changes, {}
        if self._link is not None:
            _send(self._link, "SUBSCRIBE", [name for name, subscribe in changes.items() if subscribe])
            _send(self._link, "UNSUBSCRIBE", [name for name, subscribe in changes.items() if not subscribe])

    # The connection

    async def run(self, handler: PubSubHandler) -> None:
        """Keep a connection until cancelled."""
        self._handler = handler
        backoff = reconnect_backoff()
        try:
            while True:
                was_ready = False
                try:
                    await self._use(await open_link(self._address))
                except LinkLost as error:
                    was_ready = self.is_ready
                    self._lost(error)
                if was_ready:
                    backoff.reset()
                await asyncio.sleep(backoff.next())
        finally:
            self._link = None
            self._lost(LinkLost(STOPPING))
            for confirmed in self._waiting.values():
                confirmed.cancel()

    def reset(self, why: str) -> None:
        """Replace the connection."""
        if self._link is not None:
            self._link.abort(why)

    async def _use(self, link: Link) -> None:
        self._link = link
        self.run_id = link.run_id
        self.generation += 1
        self._confirmed.clear()
        self._changes.clear()
        self._unconfirmed = set(self._channels)
        _send(link, "SUBSCRIBE", self._channels)
        try:
            await link.read(self._receive, self._flowing)
        finally:
            await link.close()

    def _receive(self, reply: Reply) -> None:
        assert self._handler is not None
        assert self._link is not None
        if isinstance(reply, ServerError):
            _logger.error("the store refuses the subscription to its channels: %s", reply)
            self._link.abort(str(reply), "the server refuses the subscription")
            return
        kind, channel, payload = reply
        if kind == b"message":
            self._handler.receive(channel, payload)
        elif kind == b"subscribe":
            self._confirm(channel, self._handler)
        elif kind == b"unsubscribe":
            self._confirmed.discard(channel)

    def _confirm(self, channel: bytes, handler: PubSubHandler) -> None:
        self._confirmed.add(channel)
        confirmed = self._waiting.pop(channel, None)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)
        self._unconfirmed.discard(channel)
        if not self.is_ready and not self._unconfirmed:
            self.is_ready = True
            self.problem = ""
            handler.subscribed()

    def _lost(self, error: LinkLost) -> None:
        if self._link is not None:
            _logger.warning("pub/sub with the store at %s: %s", self._address.shown, error)
        self._link = None
        self.run_id = ""
        self._confirmed.clear()
        self.problem = error.public
        if self.is_ready:
            self.is_ready = False
            if self._handler is not None:
                self._handler.disconnected()


def _send(link: Link, command: str, names: Iterable[bytes]) -> None:
    left = list(names)
    while left:
        link.write(pack((command, *left[:CHANNELS_PER_COMMAND])))
        del left[:CHANNELS_PER_COMMAND]
