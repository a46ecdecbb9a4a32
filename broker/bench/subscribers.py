"""A process full of subscribers: connects them, counts what they are sent, samples its age.

Rules: plain non-blocking sockets and one edge-triggered epoll; no asyncio, and no work per event, only per chunk read.
What it is told and what it tells go through a pipe, as the small values below. It only counts; what the counts mean is
`conduct`'s to say.

A subscriber is *connected* when a head with 200 and text/event-stream has come; with `replay`, when it has been sent that
many events too. A *stuck* one connects with a small receive buffer and never reads again. Sockets are reset at the end
(SO_LINGER 0), so that thousands of ports are not left in TIME_WAIT for the next run.
"""

from __future__ import annotations

import gc
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from broker.bench import marks, tally
from broker.bench.answers import error_text, is_event_stream, status_line
from broker.bench.plan import Load, Share, Target, raise_file_limit, source_address
from broker.bench.words import Connecting, Counted, Readings, Started

BUFFER = 256 * 1024
STUCK_RECEIVE_BUFFER = 4096
BIND_ADDRESS_NO_PORT = 24
REPORT_SECONDS = 0.1
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class Subscriber:
    """One connection. `on` is what to do when its socket has news; `replay` the events that must come before it counts."""

    sock: socket.socket
    topic: int
    stuck: bool
    replay: int
    on: Callable[[Subscriber, int], None]
    head: bytearray = field(default_factory=bytearray)


def read(pipe: Connection, load: Load, at: Target, share: Share, cursors: Mapping[int, str]) -> None:
    """The process's whole life: connect at once, count from "start" on, answer "stop" with Readings.

    `cursors`: for a topic's number, the Last-Event-ID that its subscribers send.
    """
    raise_file_limit()
    gc.disable()
    Reader(pipe, load, at, share, cursors).run()


class Reader:
    """The subscribers of one process and the loop that turns them."""

    def __init__(
        self, pipe: Connection, load: Load, at: Target, share: Share, cursors: Mapping[int, str]
    ) -> None:
        self.pipe, self.load, self.at, self.share, self.cursors = pipe, load, at, share, cursors
        self.total = load.subscribers + load.stuck
        self.waiting = deque(range(share.first, self.total, share.step))
        self.epoll = select.epoll()
        self.open: dict[int, Subscriber] = {}
        self.requests: dict[int, bytes] = {}
        self.in_flight = self.connected = self.refused = self.closed = 0
        self.refusal = ""
        self.first_ns = self.last_ns = 0
        self.told_done = self.stopped = False
        self.buffer = bytearray(BUFFER)
        self.count_anew()

    def count_anew(self) -> None:
        """Forget what was delivered so far."""
        self.delivered = self.delivered_ns = 0
        self.ages: tally.Tally = {}
        self.cpu_from = time.process_time_ns()

    def run(self) -> None:
        """Turn until told to stop."""
        self.epoll.register(self.pipe.fileno(), select.EPOLLIN)
        report_at = 0.0
        while not self.stopped:
            self.connect_due()
            for fd, what in self.epoll.poll(self.patience(), 4096):
                subscriber = self.open.get(fd)
                if subscriber is not None:
                    subscriber.on(subscriber, what)
                elif fd == self.pipe.fileno():
                    self.obey()
            now = time.monotonic()
            if not self.stopped and (now >= report_at or self.is_news()):
                report_at = now + REPORT_SECONDS
                self.report()
        self.close_all()

    def obey(self) -> None:
        """Do what the pipe says; that the other end has left says stop."""
        try:
            word = self.pipe.recv()
        except EOFError:
            self.stopped = True
            return
        if word == "start":
            self.count_anew()
            self.pipe.send(Started())
            self.pipe.send(Counted(0))
            return
        self.stopped = True
        cpu = time.process_time_ns() - self.cpu_from
        self.pipe.send(Readings(self.delivered, self.ages, self.delivered_ns, self.closed, cpu))

    def is_news(self) -> bool:
        return not self.told_done and not self.waiting and not self.in_flight

    def report(self) -> None:
        if self.told_done:
            self.pipe.send(Counted(self.delivered))
            return
        self.told_done = self.is_news()
        so_far = (self.connected, self.refused, self.refusal, self.first_ns, self.last_ns, self.told_done)
        self.pipe.send(Connecting(*so_far))

    def close_all(self) -> None:
        for subscriber in self.open.values():
            subscriber.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            subscriber.sock.close()

    # Connecting. What a socket's news mean: ask -> greet (-> catch_up) -> take.

    def patience(self) -> float:
        """How long to wait for news: a paced start must not oversleep."""
        return 0.001 if self.waiting and self.share.connect_rate else REPORT_SECONDS

    def connect_due(self) -> None:
        """Open as many connections as the pace and the number in flight allow."""
        if self.waiting and not self.first_ns:
            self.first_ns = time.monotonic_ns()
        while self.waiting and self.in_flight < self.share.in_flight and self.is_due():
            self.connect(self.waiting.popleft())

    def is_due(self) -> bool:
        opened = self.connected + self.refused + self.in_flight
        seconds = (time.monotonic_ns() - self.first_ns) / 1e9
        return not self.share.connect_rate or opened <= seconds * self.share.connect_rate

    def connect(self, number: int) -> None:
        """Open connection `number` of all; the answer to it comes by epoll."""
        sock = socket.socket(self.at.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        stuck = number >= self.load.subscribers
        if stuck:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_RECEIVE_BUFFER)
        source = source_address(number, self.total, self.at)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        self.in_flight += 1
        self.open[sock.fileno()] = Subscriber(
            sock, number % self.load.topics, stuck, self.load.replay, self.ask
        )
        sock.connect_ex((self.at.host, self.at.port))
        self.epoll.register(sock.fileno(), EVENTS)

    def ask(self, subscriber: Subscriber, _what: int) -> None:
        """The connection stands, or has failed."""
        subscriber.on = self.greet
        try:
            subscriber.sock.send(self.request(subscriber.topic))
        except OSError as error:
            self.refuse(subscriber, error_text(error))

    def request(self, topic: int) -> bytes:
        """The request of all subscribers of one topic."""
        request = self.requests.get(topic)
        if request is None:
            cursor = self.cursors.get(topic)
            more = (f"Last-Event-ID: {cursor}",) if cursor else ()
            request = self.requests[topic] = self.at.head("GET", topic, "Accept: text/event-stream", *more)
        return request

    def greet(self, subscriber: Subscriber, what: int) -> None:
        """Some of the answer has come."""
        length = self.receive(subscriber, 512 if subscriber.stuck else BUFFER)
        if length == 0:
            return
        subscriber.head += self.buffer[: max(0, length)]
        head, end, rest = bytes(subscriber.head).partition(b"\r\n\r\n")
        if end and is_event_stream(head):
            subscriber.head.clear()
            subscriber.replay -= rest.count(marks.MARK)
            subscriber.on = self.catch_up
            self.admit_if_complete(subscriber)
            if not subscriber.stuck and (length == BUFFER or what & ENDING):
                subscriber.on(subscriber, what)
        elif end or length < 0:
            self.refuse(subscriber, status_line(head) or "closed without an answer")

    def catch_up(self, subscriber: Subscriber, what: int) -> None:
        """Some of what it missed has come."""
        while (length := self.receive(subscriber, BUFFER)) > 0:
            subscriber.replay -= marks.count(self.buffer, length)
            if length < BUFFER and not what & ENDING:
                break
        if length < 0:
            self.refuse(subscriber, "closed before all was replayed")
        else:
            self.admit_if_complete(subscriber)

    def admit_if_complete(self, subscriber: Subscriber) -> None:
        """From now on it is a subscriber like any other, if it has all that it came for."""
        if subscriber.replay > 0:
            return
        self.in_flight -= 1
        self.connected += 1
        self.last_ns = time.monotonic_ns()
        subscriber.on = self.take
        if subscriber.stuck:
            self.epoll.unregister(subscriber.sock)

    def refuse(self, subscriber: Subscriber, reason: str) -> None:
        """It did not come to a stream."""
        self.in_flight -= 1
        self.refused += 1
        self.refusal = self.refusal or reason
        self.close(subscriber)

    # Reading.

    def receive(self, subscriber: Subscriber, limit: int) -> int:
        """Fill the buffer once: how many bytes came, 0 if none are there, -1 if the other end has closed."""
        try:
            return subscriber.sock.recv_into(self.buffer, limit) or -1
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def take(self, subscriber: Subscriber, what: int) -> None:
        """Events have come: count them, and draw one of each chunk for its age."""
        buffer = self.buffer
        while (length := self.receive(subscriber, BUFFER)) > 0:
            count = marks.count(buffer, length)
            if count:
                self.delivered += count
                self.delivered_ns = time.monotonic_ns()
                stamp = marks.draw(buffer, length, random.random() if count > 1 else 0.0)
                if stamp:
                    tally.add(self.ages, self.delivered_ns - stamp, count)
            if length < BUFFER and not what & ENDING:
                return
        if length < 0:
            self.closed += 1
            self.close(subscriber)

    def close(self, subscriber: Subscriber) -> None:
        del self.open[subscriber.sock.fileno()]
        subscriber.sock.close()
