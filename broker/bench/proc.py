"""What /proc knows of the server and of the kernel: CPU time, resident memory, memory held in sockets.

Rules: reads /proc of Linux and nothing else. A server that is gone raises BenchError; a child of it that ends takes its
CPU time along. The slab's file may be read by root only: elsewhere it is -1 and left out.

CPU time is the scheduler's own sum in nanoseconds (`schedstat`), over all threads of the process and of its descendants.
On loopback the kernel delivers in the sender's time: what a server costs includes the peer's receiving TCP, for all alike.
Socket memory is that of the whole machine and of both ends of a connection; only differences mean something.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from broker.bench.plan import BenchError

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
SOCKET_CACHES = frozenset(("TCP", "TCPv6", "sock_inode_cache", "request_sock_TCP", "request_sock_TCPv6"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: CPU time in ns, the rest in bytes. `slab` is -1 where it may not be read."""

    cpu_ns: int
    resident: int
    tcp: int
    slab: int

    @property
    def memory(self) -> int:
        """All of it that a reader who does not read can hold on to."""
        return self.resident + self.tcp + max(0, self.slab)


def sample(pid: int) -> Sample:
    """Look at process `pid`, its descendants and the kernel's sockets. Raises BenchError if there is no such process."""
    if not (PROC / str(pid)).exists():
        raise BenchError(f"--server-pid {pid}: there is no such process (any more)")
    family = descendants(pid)
    return Sample(sum(map(cpu_ns, family)), sum(map(resident, family)), tcp_bytes(), slab_bytes())


def words(path: Path) -> list[str]:
    """The words of a file of a process or thread; none if it ended while we looked."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """`pid` and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        # The fourth field; the second may hold blanks, so it is found behind the name's closing parenthesis.
        fields = " ".join(words(entry / "stat")).rpartition(")")[2].split() if entry.name.isdigit() else []
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, ()))
    return family


def cpu_ns(pid: int) -> int:
    """The CPU time of all threads that live."""
    # glob, because it yields nothing where iterdir would raise: for a process that has just ended.
    seen = [words(path) for path in (PROC / str(pid)).glob("task/*/schedstat")]
    return sum(int(fields[0]) for fields in seen if fields)


def resident(pid: int) -> int:
    """Its pages in RAM. Rss, not Pss: that of a Python server would change with every Python that starts or ends beside it."""
    fields = words(PROC / str(pid) / "statm")
    return int(fields[1]) * PAGE if fields else 0


def tcp_bytes() -> int:
    """What the buffers of all TCP sockets of this machine take."""
    for line in (PROC / "net/sockstat").read_text().splitlines():
        words = line.split()
        if words[0] == "TCP:":
            return int(words[words.index("mem") + 1]) * PAGE
    return 0


def slab_bytes() -> int:
    """What the socket objects themselves take; buffers are in `tcp_bytes` already, with their headers."""
    try:
        lines = (PROC / "slabinfo").read_text().splitlines()
    except PermissionError:
        return -1
    rows = (line.split() for line in lines[2:])
    return sum(int(row[2]) * int(row[3]) for row in rows if row[0] in SOCKET_CACHES)
