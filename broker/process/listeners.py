"""The sockets that the broker listens on: one for each address of the port, and the unix socket.

With workers, each has TCP sockets of its own, which share the port; all share the unix socket, and sockets that a service
manager passed. The worker calls `listen` on its TCP sockets; until then the kernel delivers no connection to them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from broker.process.setup import StartError
from broker.process.unix_socket import UnixSocket
from broker.settings import Settings
from broker.settings.listening import ALL_ADDRESSES

BACKLOG = 65_535
"""Room for all clients to reconnect at once."""

BindAddress = tuple[socket.AddressFamily, tuple[Any, ...]]
"""A family, and the argument of `bind`: host, port, and for IPv6 two more."""


class Listeners:
    """The bound sockets of one instance, or of all workers.

    Args:
        workers: how many processes have sockets of their own for the port; 0 for a broker of one process, which shares it
            with no other.
        inherited: listen on these instead.

    Raises:
        StartError: the port or the unix socket is in use, or `host` is not an address of this machine.
    """

    def __init__(self, settings: Settings, workers: int = 0, inherited: Sequence[socket.socket] = ()) -> None:
        self._is_shared = workers > 0
        self._common: list[socket.socket] = list(inherited)
        self._unix: UnixSocket | None = None
        self._addresses: list[BindAddress] = []
        if not inherited and settings.port is not None:
            self._addresses = _resolve(settings.host, settings.port)
        self._sockets: list[Sequence[socket.socket]] = []
        try:
            if self._is_shared:
                _check_free(self._addresses)
            for _ in range(max(workers, 1)):
                self._sockets.append(self._bind())
            if not inherited and settings.unix_socket is not None:
                self._unix = UnixSocket(settings.unix_socket, int(settings.unix_socket_mode, 8))
                self._common.append(self._unix.socket)
        except StartError:
            self.close()
            raise

    def sockets(self, worker: int = 0) -> Sequence[socket.socket]:
        """The sockets of worker number `worker`."""
        return [*self._sockets[worker], *self._common]

    def replace(self, worker: int) -> None:
        """Close a worker's own sockets and bind new ones, so that new connections go to the other workers.

        Connections in the old queues are reset. New sockets are bound first, so the port stays ours.
        """
        former, self._sockets[worker] = self._sockets[worker], self._bind()
        _close(former)

    def release(self) -> None:
        """Close the workers' own sockets here, when no worker will be started any more.

        Only the workers have them then: when one ends, its sockets are gone at once, and no connection waits in them in vain.
        """
        for sockets in self._sockets:
            _close(sockets)

    def close(self) -> None:
        """Close all sockets, and remove the unix socket."""
        for sockets in self._sockets:
            _close(sockets)
        _close(self._common)
        if self._unix is not None:
            self._unix.remove()

    def _bind(self) -> Sequence[socket.socket]:
        """A socket for each address. With port 0, the first socket gets a free port and all others use the same one."""
        sockets: list[socket.socket] = []
        try:
            for index, (family, (host, port, *rest)) in enumerate(self._addresses):
                address = (host, port or self._addresses[0][1][1], *rest)
                sockets.append(_bound(family, address, shared=self._is_shared))
                self._addresses[index] = family, sockets[-1].getsockname()
        except StartError:
            _close(sockets)
            raise
        return sockets


def shared_sockets(hosts: Sequence[str], port: int) -> Sequence[socket.socket]:
    """Bound sockets for `hosts`; other processes may share the port. Raises `StartError`."""
    return [_bound(family, address, shared=True) for family, address in _resolve(hosts, port)]


def _resolve(hosts: Sequence[str], port: int) -> list[BindAddress]:
    found: dict[BindAddress, None] = {}
    for host in hosts:
        name = None if host == ALL_ADDRESSES else host
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise _cannot_listen(host, port, error) from None
        for family, _, _, _, address in infos:
            if name is not None or family != socket.AF_INET6 or _has_ipv6():
                found[family, address] = None
    return list(found)


def _has_ipv6() -> bool:
    """Whether this machine has IPv6: a kernel without it refuses the bind."""
    try:
        _bound(socket.AF_INET6, ("::1", 0), shared=False).close()
    except StartError:
        return False
    return True


def _check_free(addresses: Sequence[BindAddress]) -> None:
    """Bind without SO_REUSEPORT. With it, two brokers with different stores could share the port and split the clients."""
    for family, address in addresses:
        if address[1]:
            _bound(family, address, shared=False).close()


def _bound(family: socket.AddressFamily, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own sockets
        sock.bind(address)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _cannot_listen(address[0], address[1], error) from None
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> StartError:
    return StartError(f"can't listen on {host} port {port}: {error.strerror}")


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
