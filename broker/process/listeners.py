"""The sockets of the port: for each worker one socket per address, bound here and inherited by the worker.

The worker calls `listen`; until then the kernel delivers no connection to its sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from broker.process.setup import StartError

BindAddress = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and the argument of `bind`: host, port, and for IPv6 two more."""


class Listeners:
    """The bound sockets of all workers.

    Raises:
        StartError: the port is in use, or `host` is not an address of this machine.
    """

    def __init__(self, host: str, port: int, workers: int) -> None:
        try:
            self._addresses = _resolve(host, port)
            if port:
                _check_free(self._addresses)
            self._sockets = [self._bind() for _ in range(workers)]
        except OSError as error:
            raise StartError(f"can't listen on {host} port {port}: {error.strerror}") from None

    def sockets(self, worker: int) -> Sequence[socket.socket]:
        """The sockets of worker number `worker`, one for each address."""
        return self._sockets[worker]

    def replace(self, worker: int) -> None:
        """Close a worker's sockets and bind new ones, so that new connections go to the other workers.

        Connections in the old queues are reset. New sockets are bound first, so the port stays ours.
        """
        former, self._sockets[worker] = self._sockets[worker], self._bind()
        _close(former)

    def close(self) -> None:
        """Close all sockets."""
        for sockets in self._sockets:
            _close(sockets)

    def _bind(self) -> Sequence[socket.socket]:
        """A socket for each address. With port 0, the first socket gets a free port and all others use the same one."""
        sockets = []
        for index, (family, (host, port, *rest)) in enumerate(self._addresses):
            address = (host, port or self._addresses[0][1][1], *rest)
            sockets.append(_bound(family, address, shared=True))
            self._addresses[index] = family, sockets[-1].getsockname()
        return sockets


def _resolve(host: str, port: int) -> list[BindAddress]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _check_free(addresses: Sequence[BindAddress]) -> None:
    """Bind without SO_REUSEPORT. With it, two brokers with different stores could share the port and split the clients."""
    for family, address in addresses:
        _bound(family, address, shared=False).close()


def _bound(family: socket.AddressFamily, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own sockets
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
