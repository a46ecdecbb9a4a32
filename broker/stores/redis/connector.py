"""Keeps a connection for calls, and makes it again whenever it is lost.

Rules: its user makes the calls (`script_pipeline`).

Calls without a reply are made again on the next connection. First the lost connection is ended on the server: a server that
was stopped for a while would still run its calls, after the retries.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from broker.backoff import Backoff
from broker.errors import Unavailable
from broker.stores.redis.address import Address
from broker.stores.redis.link import Link, LinkLost, Refused, Reply, open_link

REPLY_TIMEOUT_SECONDS = 2.0
REPLY_CHECK_SECONDS = 0.25
FIRST_WAIT_SECONDS = 0.01, 0.02
MAX_WAIT_SECONDS = 0.5
STOPPING = "this instance is stopping"

_logger = logging.getLogger("broker")


class LinkUser(Protocol):
    """Uses the connections of a `Connector`.

    Attributes:
        answers: successful replies so far. A connection without one makes the back-off grow.
    """

    answers: int

    def connected(self, link: Link) -> None:
        """Use this connection from now on."""

    def receive(self, reply: Reply) -> None:
        """Handle the next reply."""

    def unanswered_seconds(self) -> float:
        """Seconds since the last reply, if calls wait for one; else 0."""

    def disconnected(self) -> bool:
        """The connection is gone. Returns whether it had calls without a reply."""

    def stopped(self) -> None:
        """There will be no connection any more."""


class Connector:
    """Keeps one connection.

    Attributes:
        problem: why there isn't a connection, without addresses; "" while there is.
        failure: the same for the operator.
        refused: whether the server refuses access.
        connections: how many were made.
    """

    def __init__(self, address: Address, user: LinkUser, key: str = "") -> None:
        self.problem = self.failure = "not connected yet"
        self.refused = False
        self.connections = 0
        self._address = address
        self._key = key
        self._user = user
        self._previous: tuple[str, int] | None = None  # the last connection: run id, client id
        self._is_in_doubt = False  # whether it was lost with calls on it
        self._backoff = reconnect_backoff()
        self._settled = asyncio.Event()  # set while there is a connection, or `refused`

    async def wait_connected(self) -> None:
        """Wait for a connection. Raises `Unavailable` if the server refuses access."""
        await self._settled.wait()
        if self.refused:
            raise unavailable(self.problem)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        try:
            while True:
                answers = self._user.answers
                try:
                    await self._use(await open_link(self._address, self._key))
                except LinkLost as error:
                    self._lost(error)
                if self._user.answers != answers:
                    self._backoff.reset()
                await asyncio.sleep(self._backoff.next())
        finally:
            self.failure = STOPPING
            self._lost(LinkLost(STOPPING))
            self._user.stopped()

    async def _use(self, link: Link) -> None:
        try:
            await self._end_previous(link)
            self.problem, self.failure, self.refused = "", "", False
            self.connections += 1
            self._settled.set()
            self._user.connected(link)
            check = asyncio.create_task(self._check_replies(link), name="broker store replies")
            try:
                await link.read(self._user.receive)
            finally:
                check.cancel()
        finally:
            await link.close()

    async def _end_previous(self, link: Link) -> None:
        """End the previous connection on the server, if it may still hold calls."""
        objection = ""
        if self._is_in_doubt and self._previous is not None and self._previous[0] == link.run_id:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                    objection = await link.end_client(self._previous[1])
            except TimeoutError:
                raise LinkLost("the server doesn't answer") from None
        self._previous, self._is_in_doubt = (link.run_id, link.client_id), False
        if objection:
            _logger.warning("the store refuses to end our own previous connection: %s", objection)

    async def _check_replies(self, link: Link) -> None:
        while True:
            await asyncio.sleep(REPLY_CHECK_SECONDS)
            if self._user.unanswered_seconds() > REPLY_TIMEOUT_SECONDS:
                link.abort("the server doesn't answer")

    def _lost(self, error: LinkLost) -> None:
        # A refused first connection is reported by `wait_connected`.
        is_reported = isinstance(error, Refused) and self._previous is None
        if str(error) != self.failure and not is_reported:
            _logger.warning("the store at %s: %s", self._address.shown, error)
        self.problem, self.failure, self.refused = error.public, str(error), isinstance(error, Refused)
        if self.refused:
            self._settled.set()
        else:
            self._settled.clear()
        self._is_in_doubt = self._user.disconnected() or self._is_in_doubt


def reconnect_backoff() -> Backoff:
    """The waits between attempts. The first is random too: all instances lose the server at the same moment."""
    return Backoff(random.uniform(*FIRST_WAIT_SECONDS), MAX_WAIT_SECONDS)


def unavailable(why: str) -> Unavailable:
    return Unavailable(
        f"The store can't be used now: {why.rstrip('.')}. Try again in a moment.", retry_after=1
    )
