"""The sockets of the port: one a worker and address, made here and handed down.

Rules: they are bound here and listened on by workers; until a worker does, the kernel sends nobody there.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from broker.process.setup import StartError

Address = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and what its sockets are bound to: host, port, and for IPv6 two more."""


class Listeners:
    """The sockets of all workers, each worker's by its number.

    Raises:
        StartError: the port is taken, or the address is none of this machine.
    """

    def __init__(self, host: str, port: int, workers: int) -> None:
        try:
            self._addresses = _resolve(host, port)
            if port:
                _check_free(self._addresses)
            self._sockets = [self._bind() for _ in range(workers)]
        except OSError as error:
            raise StartError(f"can't listen on {host} port {port}: {error.strerror}") from None

    def of(self, worker: int) -> Sequence[socket.socket]:
        """The sockets that this worker listens on, one for each address."""
        return self._sockets[worker]

    def renew(self, worker: int) -> None:
        """Give up this worker's sockets, and who waits in their queues, so that new connections go to the other workers.

        The new ones are there first, so that the port is ours all the time.
        """
        former, self._sockets[worker] = self._sockets[worker], self._bind()
        _close(former)

    def close(self) -> None:
        """Give up all of them."""
        for sockets in self._sockets:
            _close(sockets)

    def _bind(self) -> Sequence[socket.socket]:
        """A socket for each address; where the port is a free one, the first socket of all finds it for the others."""
        sockets = []
        for index, (family, (host, port, *rest)) in enumerate(self._addresses):
            where = (host, port or self._addresses[0][1][1], *rest)
            sockets.append(_bound(family, where, shared=True))
            self._addresses[index] = family, sockets[-1].getsockname()
        return sockets


def _resolve(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, where) for family, _, _, _, where in found))


def _check_free(addresses: Sequence[Address]) -> None:
    """A shared port may be bound by whoever shares it too: another broker, with another store, would get half of the clients."""
    for family, where in addresses:
        _bound(family, where, shared=False).close()


def _bound(family: socket.AddressFamily, where: tuple[Any, ...], *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has sockets of its own
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
