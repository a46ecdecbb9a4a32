"""How much CPU one server takes in relation to another, for differences that are smaller than the noise of a shared machine.

Both run at once on one CPU and get the same bursts of load in turn, a few milliseconds each, so what disturbs one disturbs the
other. The ratio of their CPU times is taken over short blocks, of which the median counts. Two processes of the same program
may differ by 1 % for as long as they live, so both are started anew for each round.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from broker.bench.proc import cpu_ns
from tests.bench.peers.servers import Running

BLOCK_SECONDS = 0.5
WARM_BURSTS = 10
ANSWER_SECONDS = 60.0
EVENT = b"\ndata: "
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The mean of all rounds, with its standard error; `cpu_us` is the first server's CPU time per unit of load."""

    value: float
    error: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


Round = tuple[float, float]
"""A ratio, and the first server's CPU time per unit of load in microseconds."""


def ratio(rounds: Sequence[Round]) -> Ratio:
    """The ratio of at least two rounds."""
    values = [value for value, _ in rounds]
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Ratio(statistics.fmean(values), error, statistics.median(cost for _, cost in rounds))


class Load(Protocol):
    """Bursts for one server. `units` are done by each."""

    units: int

    def burst(self) -> None:
        """Send one, and return when the server has done all of it."""

    def close(self) -> None: ...


class Connections:
    """The connections of a load to one server; `path` is that of its topic."""

    def __init__(self, server: Running) -> None:
        parts = urlsplit(server.publish_url.format(n=0))
        self.path = parts.path
        self._address = (parts.hostname or "", parts.port or 0)
        self._stack = contextlib.ExitStack()

    def open(self, count: int) -> list[socket.socket]:
        return [
            self._stack.enter_context(socket.create_connection(self._address, ANSWER_SECONDS))
            for _ in range(count)
        ]

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(
            b"GET %b HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n" % self.path.encode()
        )

    def request(self, data: bytes) -> bytes:
        return (
            b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (
                self.path.encode(),
                len(data),
                data,
            )
        )

    def close(self) -> None:
        self._stack.close()


class Posts(Connections):
    """A POST on each of 32 connections, with one subscriber."""

    units = 32

    def __init__(self, server: Running) -> None:
        super().__init__(server)
        self._publishers = self.open(self.units)
        (self._subscriber,) = self.open(1)
        self.subscribe(self._subscriber)
        read_until(self._subscriber, b"retry: ", 1)
        self._request = self.request(b"x" * 100)

    def burst(self) -> None:
        for publisher in self._publishers:
            publisher.sendall(self._request)
        for publisher in self._publishers:
            read_created(publisher)
        read_until(self._subscriber, EVENT, self.units)


class Deliveries(Connections):
    """One event to 400 subscribers."""

    units = 400

    def __init__(self, server: Running) -> None:
        super().__init__(server)
        (self._publisher,) = self.open(1)
        self._subscribers = self.open(self.units)
        for subscriber in self._subscribers:
            self.subscribe(subscriber)
        for subscriber in self._subscribers:
            read_until(subscriber, b"retry: ", 1)
        self._request = self.request(b"x" * 100)

    def burst(self) -> None:
        self._publisher.sendall(self._request)
        read_created(self._publisher)
        for subscriber in self._subscribers:
            read_until(subscriber, EVENT, 1)


class Newcomers(Connections):
    """Streams of 50 connections that begin, and are left again."""

    units = 50

    def burst(self) -> None:
        newcomers = self.open(self.units)
        for newcomer in newcomers:
            self.subscribe(newcomer)
        for newcomer in newcomers:
            read_until(newcomer, b"retry: ", 1)
        self.close()


LOADS: Mapping[str, tuple[str, Callable[[Running], Load]]] = {
    "post": ("POST with one delivery, 32 connections", Posts),
    "delivery": ("delivery, 400 subscribers", Deliveries),
    "stream": ("new subscriber", Newcomers),
}


def read_until(connection: socket.socket, text: bytes, count: int) -> None:
    """Read until `text` has come `count` times. Raises `ConnectionError` if the server closes."""
    seen, rest = 0, b""
    while seen < count:
        data = connection.recv(256 << 10)
        if not data:
            raise ConnectionError("the server has closed a connection of the load")
        rest += data
        seen += rest.count(text)
        rest = rest[rest.rfind(text) + 1 :][-len(text) + 1 :]  # where the next one may have begun


def read_created(connection: socket.socket) -> None:
    """Read one answer, which must be a 201."""
    answer = b""
    while not (head := answer.partition(b"\r\n\r\n"))[1]:
        answer += received(connection)
    length = _LENGTH.search(head[0] + b"\r\n")
    if length is None or not answer.startswith(b"HTTP/1.1 201"):
        raise ConnectionError(f"the server has answered {answer[:100]!r} to a publisher")
    missing = int(length[1]) - len(head[2])
    while missing > 0:
        missing -= len(received(connection))


def received(connection: socket.socket) -> bytes:
    data = connection.recv(64 << 10)
    if not data:
        raise ConnectionError("the server has closed a connection of the load")
    return data


def compare(first: Running, second: Running, load: Callable[[Running], Load], seconds: float) -> Round:
    """The CPU time of `second` as a multiple of that of `first`. Takes `seconds`, at least a block."""
    ratios: list[float] = []
    costs: list[float] = []
    with contextlib.closing(load(first)) as to_first, contextlib.closing(load(second)) as to_second:
        for _ in range(WARM_BURSTS):
            to_first.burst()
            to_second.burst()
        end = time.monotonic() + seconds
        while time.monotonic() < end or not ratios:
            before = cpu_ns(first.pid), cpu_ns(second.pid)
            bursts = alternate(to_first, to_second)
            own, other = cpu_ns(first.pid) - before[0], cpu_ns(second.pid) - before[1]
            ratios.append(other / own)
            costs.append(own / (1000 * bursts * to_first.units))
    return statistics.median(ratios), statistics.median(costs)


def alternate(first: Load, second: Load) -> int:
    """One block: the same number of bursts for both, which is returned."""
    end = time.monotonic() + BLOCK_SECONDS
    bursts = 0
    while time.monotonic() < end:
        for one in (first, second, second, first):
            one.burst()
        bursts += 2
    return bursts
