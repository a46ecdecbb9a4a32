"""The plan of a run: the load, the server's address, and how subscribers are split into processes.

Rules: values only; it asks the system only to resolve a host name and for the limit on open files. Every mistake of the caller
ends here, as a BenchError of one line, before any load is made.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.bench import stamps

PLACEHOLDER = "{n}"
SPARE_FILES = 100
PER_SOURCE = 10_000
"""Connections from one source address to one server address. The kernel has 28,000 ports for them, but its search for a free one
becomes slow when half are taken: 20,000 connections from one address are made at a tenth of the speed."""


PublishForm = tuple[str, str, str]
"""How a server wants an event: the Content-Type of a POST, and the text before and after the event's data, where {n} stands for
the topic's number."""


class BenchError(Exception):
    """The run is impossible: a mistake of the caller. The text is one line and says what to change."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one run. Times are seconds, sizes bytes. `rate` is events a second in total; 0 is as fast as possible."""

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
    form: PublishForm = ("text/plain", "", "")

    def check(self) -> None:
        """Raise BenchError if the fields are invalid or contradict each other."""
        if (
            min(self.subscribers, self.topics - 1, self.publishers, self.stuck, self.processes, self.replay)
            < 0
        ):
            raise BenchError("counts cannot be negative, and at least one topic is needed")
        if min(self.rate, self.connect_rate, self.duration, self.drain, self.alive_topics) < 0:
            raise BenchError("rates and times cannot be negative")
        if self.size < stamps.WIDTH:
            raise BenchError(
                f"--size {self.size}: the time stamp in each event's data needs {stamps.WIDTH} bytes"
            )
        if max(self.topics, self.alive_topics) > 1 and PLACEHOLDER not in self.url:
            raise BenchError(
                f"--url needs {PLACEHOLDER} in place of the topic's number to use more than one topic"
            )
        if self.replay and not self.connects:
            raise BenchError("--replay measures reconnecting: use it with --connects")
        if self.ndjson and (self.topics > 1 or self.rate):
            raise BenchError("--ndjson streams to one topic at full speed: use --topics 1 and --rate 0")
        if not self.subscribers and not self.stuck and not self.publishers:
            raise BenchError("nothing to do: there are neither subscribers nor publishers")

    @property
    def publishes(self) -> bool:
        """Whether the run has a publishing phase."""
        return not self.connects and self.publishers > 0 and self.duration > 0


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address, and a path in which {n} stands for the topic's number; makes requests."""

    host: str
    port: int
    family: int
    authority: str
    path: str
    headers: tuple[str, ...]
    form: PublishForm = ("text/plain", "", "")

    def post(self, topic: int, size: int) -> tuple[bytes, bytes]:
        """The bytes before and after `size` bytes of data in the request that publishes them."""
        content_type, before, after = (text.replace(PLACEHOLDER, str(topic)) for text in self.form)
        length = len(before.encode()) + size + len(after.encode())
        head = self.head("POST", topic, f"Content-Type: {content_type}", f"Content-Length: {length}")
        return head + before.encode(), after.encode()

    def head(self, method: str, topic: int, *more: str) -> bytes:
        """The head of a request for topic number `topic`, with `more` header lines."""
        path = self.path.replace(PLACEHOLDER, str(topic))
        lines = (f"{method} {path} HTTP/1.1", f"Host: {self.authority}", *self.headers, *more)
        return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"

    def url(self, topic: int = 0) -> str:
        """The URL of topic number `topic`, for messages."""
        return f"http://{self.authority}{self.path.replace(PLACEHOLDER, str(topic))}"


def resolve(url: str, load: Load) -> Target:
    """Resolve `url` once, so that every connection goes to the address that was checked. Raises BenchError."""
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        raise BenchError(f"{url}: the port is not a number") from None
    if parts.scheme != "http" or not parts.hostname:
        raise BenchError(f"{url}: use a URL of the form http://HOST:PORT/PATH")
    for line in load.headers:
        if ":" not in line or "\n" in line or "\r" in line:
            raise BenchError(f"--header {line!r}: use the form NAME: VALUE")
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
    return Target(host, port, int(family), parts.netloc.rpartition("@")[2], path, load.headers, load.form)


@dataclass(frozen=True, slots=True)
class SubscriberShare:
    """The load of one process: subscribers `first`, `first + step`, … below `subscribers + stuck`.

    At most `in_flight` of them connect at the same time, `connect_rate` a second (0: unpaced).
    """

    first: int
    step: int
    in_flight: int
    connect_rate: float


def shares(load: Load) -> list[SubscriberShare]:
    """Split the subscribers into processes. Raises BenchError if the limit on open files is too low."""
    total = load.subscribers + load.stuck
    if not total:
        return []
    room = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES)
    needed = -(-total // room)
    processes = load.processes or max(needed, min(default_processes(), -(-total // 100)))
    if processes < needed:
        raise BenchError(
            f"{total} connections in {processes} process(es): the limit on open files allows {room} in each; "
            f"use --processes {needed}, or raise `ulimit -Hn`"
        )
    return [
        SubscriberShare(n, processes, max(1, 256 // processes), load.connect_rate / processes)
        for n in range(processes)
    ]


def default_processes() -> int:
    """One process for each CPU except two, the server's and the publishers'; at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 2)


def fan_out(load: Load, topic: int) -> int:
    """How many subscribers, without the stuck ones, follow topic number `topic`."""
    return load.subscribers // load.topics + (topic < load.subscribers % load.topics)


def source_address(number: int, total: int, target: Target) -> str | None:
    """The source address for connection `number` of `total`, a loopback address; None lets the kernel choose."""
    is_ipv4 = target.family == socket.AF_INET
    if total <= PER_SOURCE or not is_ipv4 or not ipaddress.ip_address(target.host).is_loopback:
        return None
    return str(ipaddress.IPv4Address("127.0.0.1") + number // PER_SOURCE)
