"""Attacks on a broker with plain sockets. Each attack runs in a process of its own, and ends.

An attack asserts only that it took place: that its connections were accepted, and how they ended. The control crowd
checks that other clients were not disturbed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Self

from broker.descriptors import raise_limit
from tests.live.crowd import SMALL_BUFFER_BYTES
from tests.support.event_stream import READ_BYTES, Stream
from tests.support.http import HOST, NDJSON, RESET_ON_CLOSE, Connection, chunked, request
from tests.support.waiting import WAIT_SECONDS

TOPIC = "abused"
SLOW = 1000
STREAMED = 260
SILENT = 5000
DROPS = 5000
STUCK = 200
REPLAYERS = 200
REPLAYS = 3
TOPICS = 40_000
KEYS = 20_000
FLOOD_BYTES = 48 << 20
LINE = b'{"data": "%b"}\n' % (b"x" * 200)
CHUNKED = "Transfer-Encoding: chunked"
DRIP_SECONDS = 0.1
END_SECONDS = WAIT_SECONDS

Attack = Callable[[int], None]
"""Takes the broker's port."""


class Attacker:
    """The process; a context manager. `cpu`: the only one it runs on, where given, and then it gives way to others there."""

    def __init__(self, *, cpu: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._process = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        self._process.submit(_settle, cpu).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def run(self, attack: Attack, port: int) -> None:
        """Run the attack to its end; raises its exceptions."""
        self._process.submit(attack, port).result()


def _settle(cpu: int | None) -> None:
    raise_limit()
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
        os.nice(10)


# Connections that keep the broker waiting


def slow_heads(port: int) -> None:
    """Heads that come byte by byte and are never whole."""
    _drip(_connected(port, SLOW, b"GET /topics/abused HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "))


def slow_bodies(port: int) -> None:
    """Bodies that come byte by byte."""
    _drip(_connected(port, SLOW, request("POST", f"/topics/{TOPIC}", "Content-Length: 100000")))


def silence(port: int) -> None:
    """Connections that never send."""
    _drip(_connected(port, SILENT, b""), drip=b"")


def more_than_there_is_room_for(port: int) -> None:
    """As many connections that never send, and a request that is answered all the same."""
    socks = _connected(port, SILENT, b"")
    with Connection(port) as connection:
        connection.send(request("GET", "/healthz"))
        assert connection.answer().status == 200
    for sock in socks:
        sock.close()


def streamed_bodies(port: int) -> None:
    """Streamed bodies that go on for ever, more than there are descriptors; a request and a publish are answered all the same."""
    begun = request("POST", f"/topics/{TOPIC}", NDJSON, CHUNKED)
    socks = _connected(port, STREAMED, begun + chunked(b'{"data": "never', end=b""))
    with Connection(port) as connection:
        connection.send(request("GET", "/healthz"))
        assert connection.answer().status == 200
        connection.send(request("POST", f"/topics/{TOPIC}", body=b"x"))
        assert connection.answer().status == 201
    for sock in socks:
        sock.close()


def _connected(port: int, count: int, sent: bytes) -> list[socket.socket]:
    socks = []
    for _ in range(count):
        sock = socket.create_connection((HOST, port), WAIT_SECONDS)
        sock.send(sent)
        sock.setblocking(False)
        socks.append(sock)
    return socks


def _drip(socks: Sequence[socket.socket], drip: bytes = b"x") -> None:
    """Send a little to each, again and again, until the broker has ended all of them."""
    deadline = time.monotonic() + END_SECONDS
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} were never cut"
            for key, _ in selector.select(DRIP_SECONDS):
                _end_if_ended(selector, key.fileobj)
            if drip:
                for key in list(selector.get_map().values()):
                    _send(key.fileobj, drip)


def _end_if_ended(selector: selectors.BaseSelector, sock: object) -> None:
    assert isinstance(sock, socket.socket)
    try:
        data = sock.recv(4096)
    except ConnectionError:
        data = b""
    if not data or b" 400 " in data:  # a client that goes on sending after its answer is cut off soon
        selector.unregister(sock)
        sock.close()


def _send(sock: object, data: bytes) -> None:
    assert isinstance(sock, socket.socket)
    with contextlib.suppress(BlockingIOError, ConnectionError):  # reading tells
        sock.send(data)


# Coming and going


def drops(port: int) -> None:
    """Connections that are gone as soon as they are there, in every state, politely and not."""
    said = [
        b"",
        b"GE",
        request("GET", f"/topics/{TOPIC}"),
        request("GET", f"/topics/{TOPIC}?since=earliest"),
        request("POST", f"/topics/{TOPIC}", "Content-Length: 10"),
        request("POST", f"/topics/{TOPIC}", body=b"x"),
    ]
    for number, (sent, resets) in zip(
        range(DROPS), itertools.cycle(itertools.product(said, (False, True))), strict=False
    ):
        sock = socket.create_connection((HOST, port), WAIT_SECONDS)
        sock.send(sent)
        if resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        sock.close()
        if number % 100 == 0:
            time.sleep(0.01)  # so that not all of them are one burst


# Reading


def stuck_readers(port: int) -> None:
    """Subscribers of a busy topic that never read, until they are cut off."""
    socks = [
        Stream(port, f"/topics/{TOPIC}", receive_buffer=SMALL_BUFFER_BYTES).opened().socket
        for _ in range(STUCK)
    ]
    _flood(port, FLOOD_BYTES // 16)
    deadline = time.monotonic() + END_SECONDS
    left = list(socks)
    while left:
        assert time.monotonic() < deadline, f"{len(left)} were never cut"
        time.sleep(DRIP_SECONDS)
        left = [sock for sock in left if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
    for sock in socks:
        sock.close()


def replays(port: int) -> None:
    """Clients that read all retained events of a topic, again and again."""
    _flood(port, 2 << 20)
    mark = f"the end {time.time_ns()}".encode()
    with Connection(port) as connection:
        connection.send(request("POST", f"/topics/{TOPIC}", body=mark))
        assert connection.answer().status == 201
    with selectors.DefaultSelector() as selector:
        for _ in range(REPLAYERS):
            _Replayer(selector, port, mark)
        while selector.get_map():
            ready = selector.select(WAIT_SECONDS)
            assert ready, "nothing comes any more"
            for key, _ in ready:
                key.data.read()


class _Replayer:
    """One of them: leaves when `mark` has come, and comes back."""

    def __init__(self, selector: selectors.BaseSelector, port: int, mark: bytes) -> None:
        self._selector = selector
        self._port = port
        self._mark = mark
        self._left = REPLAYS
        self._ask()

    def _ask(self) -> None:
        self._left -= 1
        self._tail = b""
        self._socket = socket.create_connection((HOST, self._port), WAIT_SECONDS)
        self._socket.send(request("GET", f"/topics/{TOPIC}?since=earliest"))
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ, self)

    def read(self) -> None:
        data = self._socket.recv(READ_BYTES)
        assert data, "a replay was cut off"
        self._tail = self._tail[-len(self._mark) :] + data
        if self._mark in self._tail:
            self._selector.unregister(self._socket)
            self._socket.close()
            if self._left:
                self._ask()


# Publishing


def flood(port: int) -> None:
    """A client that publishes a streamed body as fast as the broker reads it."""
    _flood(port, FLOOD_BYTES)


def _flood(port: int, size: int) -> None:
    piece = chunked(LINE * 256, end=b"")
    count = size // (256 * len(LINE)) or 1
    with Connection(port) as connection:
        connection.send(request("POST", f"/topics/{TOPIC}", NDJSON, CHUNKED))
        for _ in range(count):
            connection.send(piece)
        connection.send(b"0\r\n\r\n")
        answer = connection.answer()
    assert answer.json()["published"] == 256 * count, answer


def many_topics(port: int) -> None:
    """Many events, each to a new topic."""
    run = time.time_ns()
    names = (f"{run}.{number}" for number in range(TOPICS))
    with Connection(port) as connection:
        connection.send(request("POST", "/topics", NDJSON, CHUNKED))
        while block := list(itertools.islice(names, 256)):
            connection.send(
                chunked(
                    b"".join(b'{"topic": "%b", "data": "x"}\n' % name.encode() for name in block), end=b""
                )
            )
        connection.send(b"0\r\n\r\n")
        assert connection.answer().json()["published"] == TOPICS


def many_keys(port: int) -> None:
    """Many events, each with a new idempotency key, until the memory for keys is full."""
    run = time.time_ns()
    names = (f"{run}-{number}".ljust(200, "k") for number in range(KEYS))
    statuses = set()
    with Connection(port) as connection:
        while block := list(itertools.islice(names, 100)):
            connection.send(
                b"".join(
                    request("POST", f"/topics/{TOPIC}", f"Idempotency-Key: {name}", body=b"x")
                    for name in block
                )
            )
            statuses |= {connection.answer().status for _ in block}
    assert statuses <= {201, 429}
    assert 429 in statuses


ATTACKS: list[Attack] = [
    slow_heads,
    slow_bodies,
    silence,
    drops,
    stuck_readers,
    flood,
    replays,
    many_topics,
    many_keys,
]
