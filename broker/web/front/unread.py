"""Counts the unread bytes of answers in the connections of a front; see `unread_answers`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from broker.metrics import Metrics
from broker.web.client_address import ClientAddresses
from broker.web.connection_timeouts import TimeoutReason, Waiting
from broker.web.front.exchange import Exchange
from broker.web.unread_answers import UnreadAnswers


class Answering(Waiting, Protocol):
    """A connection."""

    @property
    def peer(self) -> str: ...

    def __hash__(self) -> int: ...


class UnreadBytes:
    """The count for one front."""

    def __init__(self, answers: UnreadAnswers, addresses: ClientAddresses, metrics: Metrics) -> None:
        self._answers = answers
        self._addresses = addresses
        self._cut = metrics.cut_requests

    def hold(self, connection: Answering, exchange: Exchange, size: int) -> None:
        """The client has not taken `size` bytes of its answer yet. The connection times out if too many are held already."""
        address = self._addresses.of(exchange.head.headers, connection.peer)
        if not self._answers.hold(connection, address, size):
            self._cut.add(TimeoutReason.MEMORY)
            connection.time_out(TimeoutReason.MEMORY)

    def move(self, connection: Hashable, successor: Hashable) -> None:
        """`successor` is in charge of the bytes that `connection` holds."""
        self._answers.move(connection, successor)

    def release(self, connection: Hashable) -> None:
        """The rest of the answer has left, or the connection has ended."""
        self._answers.release(connection)
