"""Sockets that a service manager passes: systemd's socket activation (sd_listen_fds(3)).

The manager binds them and listens, so connections wait while the broker starts or restarts, and ports under 1024 need no right.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from broker.process.setup import StartError

FIRST_DESCRIPTOR = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def take_sockets(variables: MutableMapping[str, str]) -> Sequence[socket.socket]:
    """The sockets passed to this process; removes the variables, which are not for its children.

    Raises:
        StartError: one of them is not a listening stream socket.
    """
    process, count, _ = (variables.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()) or not count.isdigit():
        return ()
    return [_listening(FIRST_DESCRIPTOR + index) for index in range(int(count))]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"LISTEN_FDS: descriptor {descriptor} is not a socket: {error.strerror}") from None
    if sock.type != socket.SOCK_STREAM or not is_listening:
        raise StartError(
            f"LISTEN_FDS: descriptor {descriptor} is not a listening stream socket; use ListenStream= and Accept=no"
        )
    return sock


def settings_of(sockets: Sequence[socket.socket]) -> dict[str, Any]:
    """The settings that say where `sockets` listen: access control looks at them."""
    names = {sock: sock.getsockname() for sock in sockets}
    addresses = [name for sock, name in names.items() if sock.family != socket.AF_UNIX]
    files = [name for sock, name in names.items() if sock.family == socket.AF_UNIX]
    found: dict[str, Any] = {"port": addresses[0][1] if addresses else None}
    if addresses:
        found["host"] = tuple(str(name[0]) for name in addresses)
    if files:
        found["unix_socket"] = Path(os.fsdecode(files[0]))
    return found
