"""The processes of a broker that has several, found from outside: by the process table and by their open sockets.

Linux only.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from tests.support.broker_process import BrokerProcess

WORKER = "broker.process.worker"
SERVER = "valkey-server"


def descendants(pid: int) -> list[int]:
    """The processes that this one started and that still run."""
    children = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                children.append(int(entry.name))
    return children


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it isn't just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers(broker: BrokerProcess) -> list[int]:
    """The ids of its workers."""
    return [pid for pid in descendants(broker.pid) if WORKER in _command(pid)]


def data_server(broker: BrokerProcess) -> int:
    """The id of the server that holds its events."""
    (pid,) = (pid for pid in descendants(broker.pid) if SERVER in _command(pid))
    return pid


def worker_of(broker: BrokerProcess, connection: socket.socket) -> int:
    """The worker at the other end of a connection, once it was accepted."""
    inode = _inode(connection.getpeername()[1], connection.getsockname()[1])
    return next(pid for pid in workers(broker) if f"socket:[{inode}]" in _descriptors(pid))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _inode(local_port: int, remote_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(fields[index].split(":")[1], 16) for index in (1, 2)]
        if ports == [local_port, remote_port]:
            return fields[9]
    raise AssertionError("no such connection")


def _descriptors(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(path))  # noqa: PTH115 - the link's target isn't a path
    return found
