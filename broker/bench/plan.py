"""What a run is to do: the load, where it goes, and how it is cut into processes.

Rules: values only; the one thing it asks of the system is what a host name stands for and how many files may be open.
Every mistake in what was asked for ends here, as a BenchError of one line, before any load is made.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.bench import marks

PLACEHOLDER = "{n}"
SPARE_FILES = 100
PER_SOURCE = 10_000
"""Connections from one source address to one server address. The kernel has 28,000 ports for them, but searches them long
when half are taken: 20,000 from one address enter at a tenth of the speed."""


class BenchError(Exception):
    """What was asked for cannot be measured; the text is one line and says what to change. The caller's mistake."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run. Times in seconds, sizes in bytes, `rate` in events a second overall (0: as fast as they are answered)."""

    url: str
    publish_url: str = ""
    subscribers: int = 1000
    topics: int = 1
    publishers: int = 1
    rate: float = 10.0
    size: int = 200
    duration: float = 10.0
    connects: bool = False
    connect_rate: float = 0.0
    replay: int = 0
    ndjson: bool = False
    stuck: int = 0
    alive_topics: int = 0
    processes: int = 0
    server_pid: int = 0
    headers: tuple[str, ...] = ()
    drain: float = 10.0
    any_host: bool = False

    def check(self) -> None:
        """Raise BenchError if the parts do not fit together."""
        if (
            min(self.subscribers, self.topics - 1, self.publishers, self.stuck, self.processes, self.replay)
            < 0
        ):
            raise BenchError("counts cannot be negative, and there is at least one topic")
        if min(self.rate, self.connect_rate, self.duration, self.drain, self.alive_topics) < 0:
            raise BenchError("rates and times cannot be negative")
        if self.size < marks.WIDTH:
            raise BenchError(f"--size {self.size}: the stamp in each event's data takes {marks.WIDTH} bytes")
        if max(self.topics, self.alive_topics) > 1 and PLACEHOLDER not in self.url:
            raise BenchError(
                f"--url needs {PLACEHOLDER} where the number of the topic goes, to use more than one topic"
            )
        if self.replay and not self.connects:
            raise BenchError("--replay measures reconnecting: it goes with --connects")
        if self.ndjson and (self.topics > 1 or self.rate):
            raise BenchError(
                "--ndjson streams to one topic at full speed: leave --topics at 1, give --rate 0"
            )
        if not self.subscribers and not self.stuck and not self.publishers:
            raise BenchError("nothing to do: neither subscribers nor publishers")

    @property
    def publishes(self) -> bool:
        """Whether there is a phase of publishing to measure."""
        return not self.connects and self.publishers > 0 and self.duration > 0


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one server and a path with or without a placeholder; ready to write requests from."""

    host: str
    port: int
    family: int
    authority: str
    path: str
    headers: tuple[str, ...]

    def head(self, method: str, topic: int, *more: str) -> bytes:
        """The head of a request about the topic of this number, with `more` header lines."""
        path = self.path.replace(PLACEHOLDER, str(topic))
        lines = (f"{method} {path} HTTP/1.1", f"Host: {self.authority}", *self.headers, *more)
        return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"

    def where(self, topic: int = 0) -> str:
        """The URL, for a person."""
        return f"http://{self.authority}{self.path.replace(PLACEHOLDER, str(topic))}"


def target(url: str, load: Load) -> Target:
    """Resolve `url` once, so that every connection goes to the address that was checked to be this machine's own."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        raise BenchError(f"{url}: the port is not a number") from None
    if parts.scheme != "http" or not parts.hostname:
        raise BenchError(f"{url}: only http://HOST:PORT/PATH can be measured")
    for line in load.headers:
        if ":" not in line or "\n" in line or "\r" in line:
            raise BenchError(f"--header {line!r}: a header is NAME: VALUE")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"{url}: no such host ({error.strerror})") from None
    family, _, _, _, address = found[0]
    host = str(address[0])
    if not load.any_host and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        raise BenchError(
            f"{url}: not on loopback; load goes to other machines only with --yes-this-is-my-server"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, port, int(family), parts.netloc.rpartition("@")[2], path, load.headers)


@dataclass(frozen=True, slots=True)
class Share:
    """What one reading process takes on: subscribers `first`, `first + step`, … below `subscribers + stuck`."""

    first: int
    step: int
    in_flight: int
    connect_rate: float


def shares(load: Load) -> list[Share]:
    """Cut the subscribers into reading processes. Raises BenchError where the open-file limit is too low."""
    total = load.subscribers + load.stuck
    if not total:
        return []
    room = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES)
    needed = -(-total // room)
    processes = load.processes or max(needed, min(reading_processes(), -(-total // 100)))
    if processes < needed:
        raise BenchError(
            f"{total} connections in {processes} process(es): the limit on open files allows {room} in each; "
            f"give --processes {needed} or raise `ulimit -Hn`"
        )
    return [
        Share(n, processes, max(1, 256 // processes), load.connect_rate / processes) for n in range(processes)
    ]


def reading_processes() -> int:
    """One for each CPU but two (the server's and the publishers'), at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 2)


def fan_out(load: Load, topic: int) -> int:
    """How many of the subscribers that read are on the topic of this number."""
    return load.subscribers // load.topics + (topic < load.subscribers % load.topics)


def source_address(number: int, total: int, at: Target) -> str | None:
    """The loopback address that connection `number` of `total` comes from; None leaves it to the kernel."""
    if total <= PER_SOURCE or at.family != socket.AF_INET or not ipaddress.ip_address(at.host).is_loopback:
        return None
    return str(ipaddress.IPv4Address("127.0.0.1") + number // PER_SOURCE)


def raise_file_limit() -> None:
    """Lift this process's soft limit on open files to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
