"""Ports for servers of tests, which no other program gets meanwhile.

The kernel gives outgoing connections, and servers that ask for port 0, a port of its range for them. A server that is killed and
started again on such a port may find it taken. So these ports lie below that range, and each test process has its own.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.support.http import HOST

LOWEST = 10_240
KERNELS_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
PROCESSES = 24
"""So many may run tests at the same time, by pytest-xdist's numbers."""


def _own_ports() -> range:
    """This process's."""
    end = int(KERNELS_RANGE.read_text().split()[0]) if KERNELS_RANGE.exists() else 32_768
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (end - LOWEST) // PROCESSES
    first = LOWEST + number % PROCESSES * size
    return range(first, first + size)


_PORTS = _own_ports()
_numbers = itertools.count(random.randrange(len(_PORTS)))  # at random: another run may be going on


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive ports that no program uses. All others of this process come before it is given out again."""
    for _ in _PORTS:
        ports = [_PORTS[next(_numbers) % len(_PORTS)] for _ in range(count)]
        if ports[-1] - ports[0] != count - 1:
            continue  # the range's end lies in between
        with ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.create_server((HOST, port)))
            except OSError:  # another program has one
                continue
            return ports[0]
    raise AssertionError(f"all ports from {_PORTS.start} to {_PORTS.stop - 1} are in use")
