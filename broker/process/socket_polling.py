"""Watches the sockets of one loop by two epolls: one for those that want to be served at once, and one for those that can wait.

Rules: knows no HTTP. The event loop watches two descriptors at most, however many sockets there are.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Sequence

from broker.process.coalescing import CoalescingEpoll

READ_BYTES = 64 << 10
EVENTS_PER_TURN = 64
"""Sockets served in one turn of the loop; a request takes about 50 µs."""
READABLE, WRITABLE, BROKEN, ONCE = 1, 4, 8, 1 << 31
"""EPOLLIN, EPOLLOUT, EPOLLERR and EPOLLET, which `select` has on Linux only."""


class Watched:
    """Handles a socket's events."""

    __slots__ = ()

    def on_ready(self, events: int) -> None:
        """The socket is readable, writable or broken."""
        raise NotImplementedError

    def abort(self) -> None:
        """A defect was met: the socket is to be closed."""
        raise NotImplementedError


class SocketPolling:
    """The watched sockets of `loop`, and the buffer that they are read into."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._prompt = select.epoll()
        self._coalescing = CoalescingEpoll(loop, self._serve, EVENTS_PER_TURN)
        self._can_wait: set[int] = set()  # descriptors with coalesced events
        self._watched: list[Watched | None] = []  # by descriptor
        self._count, self._is_stopping = 0, False
        self._buffer = memoryview(bytearray(READ_BYTES))
        loop.add_reader(self._prompt, self._turn)

    def add(self, connection: socket.socket, watched: Watched) -> None:
        """Have `watched` handle the events of `connection` that are given to `watch`."""
        descriptor = connection.fileno()
        self._watched += [None] * (descriptor + 1 - len(self._watched))
        self._watched[descriptor] = watched
        self._count += 1

    def remove(self, connection: socket.socket) -> None:
        """Close `connection`; its events are handled no longer."""
        descriptor = connection.fileno()
        self._watched[descriptor] = None
        self._can_wait.discard(descriptor)
        connection.close()
        self._count -= 1
        self._release_if_empty()

    def stop(self) -> None:
        """Release the epolls once all sockets are removed."""
        self._is_stopping = True
        self._release_if_empty()

    def _release_if_empty(self) -> None:
        if self._is_stopping and not self._count and not self._prompt.closed:
            self.loop.remove_reader(self._prompt)
            self._prompt.close()
            self._coalescing.close()

    def watch(self, connection: socket.socket, former: int, events: int) -> None:
        """Watch for `events` instead of the `former` ones; 0 for none, not even errors."""
        epoll = self._coalescing.epoll if connection.fileno() in self._can_wait else self._prompt
        if not former:
            epoll.register(connection, events)
        elif events:
            epoll.modify(connection, events)
        else:
            epoll.unregister(connection)

    def coalesce(self, connection: socket.socket, events: int, *, on: bool) -> None:
        """Move `connection`, now watched for `events`, to the coalescing epoll, or back.

        It stays where it is if the kernel lets the user watch no more (fs.epoll.max_user_watches).
        """
        descriptor = connection.fileno()
        if on == (descriptor in self._can_wait):
            return
        if events:
            source, target = self._prompt, self._coalescing.epoll
            if not on:
                source, target = target, source
            try:
                target.register(connection, events)
            except OSError:
                return
            source.unregister(connection)
        (self._can_wait.add if on else self._can_wait.discard)(descriptor)

    def receive(self, connection: socket.socket) -> bytes:
        """The bytes that have arrived, at most `READ_BYTES`; b"" at the end. Raises `OSError`."""
        count = connection.recv_into(self._buffer)  # mypyc would evaluate it twice within the slice
        return bytes(self._buffer[:count])

    def failed(self, watched: Watched, error: Exception) -> None:
        """Report a defect, and end the connection."""
        context = {"message": "a protocol failed", "exception": error, "transport": watched}
        self.loop.call_exception_handler(context)
        watched.abort()

    def _turn(self) -> None:
        self._serve(self._prompt.poll(0, EVENTS_PER_TURN))

    def _serve(self, ready: Sequence[tuple[int, int]]) -> None:
        for descriptor, events in ready:
            watched = self._watched[descriptor]
            if watched is None:
                continue
            try:
                watched.on_ready(events)
            except Exception as error:  # a defect with one connection must not reach the others (I9)
                self.failed(watched, error)
