"""CPU time and memory from /proc: a server's, and the kernel's for sockets.

Rules: reads only /proc, on Linux. A server that has exited raises BenchError; the CPU time of a child that exits is lost. Only
root may read the slab's file; for others its figure is -1 and left out.

CPU time is the scheduler's sum in nanoseconds (`schedstat`) over all threads of the process and its descendants. On loopback
the kernel delivers on the sender's CPU time: a server's cost includes the peer's receiving TCP, for every server alike. Socket
memory covers the whole machine and both ends of a connection; only differences are meaningful.
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
    """One reading: CPU time in ns, the rest in bytes. `slab` is -1 if it cannot be read."""

    cpu_ns: int
    resident: int
    tcp: int
    slab: int

    @property
    def memory(self) -> int:
        """All memory that a subscriber can occupy by not reading."""
        return self.resident + self.tcp + max(0, self.slab)


def sample(pid: int) -> Sample:
    """Measure process `pid`, its descendants and the kernel's sockets. Raises BenchError if it doesn't exist."""
    if not (PROC / str(pid)).exists():
        raise BenchError(f"--server-pid {pid}: this process doesn't exist")
    family = descendants(pid)
    return Sample(sum(map(cpu_ns, family)), sum(map(resident, family)), tcp_bytes(), slab_bytes())


def read_fields(path: Path) -> list[str]:
    """The fields of a file of a process or thread; empty if it has exited."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """`pid` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        # the fourth field; the second, the name, may contain blanks and ends with a parenthesis
        stat = read_fields(entry / "stat") if entry.name.isdigit() else []
        fields = " ".join(stat).rpartition(")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, ()))
    return family


def cpu_ns(pid: int) -> int:
    """The CPU time of all live threads of a process."""
    # glob yields nothing for a process that has just exited; iterdir would raise
    threads = [read_fields(path) for path in (PROC / str(pid)).glob("task/*/schedstat")]
    return sum(int(fields[0]) for fields in threads if fields)


def resident(pid: int) -> int:
    """The resident memory of a process. Rss, not Pss: Pss changes when another Python starts or exits."""
    fields = read_fields(PROC / str(pid) / "statm")
    return int(fields[1]) * PAGE if fields else 0


def tcp_bytes() -> int:
    """The memory of the buffers of all TCP sockets."""
    for line in (PROC / "net/sockstat").read_text().splitlines():
        fields = line.split()
        if fields[0] == "TCP:":
            return int(fields[fields.index("mem") + 1]) * PAGE
    return 0


def slab_bytes() -> int:
    """The memory of the socket objects themselves; `tcp_bytes` has their buffers. -1 if it cannot be read."""
    try:
        lines = (PROC / "slabinfo").read_text().splitlines()
    except PermissionError:
        return -1
    rows = (line.split() for line in lines[2:])
    return sum(int(row[2]) * int(row[3]) for row in rows if row[0] in SOCKET_CACHES)
