"""A process full of subscribers: connects them, counts the events they receive, and samples the latency.

Rules: non-blocking sockets and one edge-triggered epoll; no asyncio, and no work per event, only per chunk. It counts; the
coordinator interprets the counts. They exchange the messages of `types` through a pipe.

A subscriber is *connected* when it has received a head with 200 and text/event-stream; with `replay`, when it has also received
that many events. A *stuck* subscriber connects with a small receive buffer and never reads again. Sockets are reset at the end
(SO_LINGER 0), so that thousands of ports do not stay in TIME_WAIT for the next run.
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
from multiprocessing.connection import Connection as Pipe

from broker.bench import histogram, stamps
from broker.bench.plan import Load, SubscriberShare, Target, source_address
from broker.bench.responses import error_text, is_event_stream, status_line
from broker.bench.types import Command, ConnectProgress, CountingStarted, DeliveryCount, SubscriberResult
from broker.descriptors import raise_limit

BUFFER = 256 * 1024
STUCK_RECEIVE_BUFFER = 4096
BIND_ADDRESS_NO_PORT = 24
REPORT_SECONDS = 0.1
EPOLL_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class SubscriberConnection:
    """One subscriber.

    Attributes:
        on_ready: handles the next epoll event of its socket; the state of the connection.
        replay: how many replayed events are still missing before it is connected.
    """

    sock: socket.socket
    topic: int
    stuck: bool
    replay: int
    on_ready: Callable[[SubscriberConnection, int], None]
    head: bytearray = field(default_factory=bytearray)


def run_subscribers(
    pipe: Pipe, load: Load, target: Target, share: SubscriberShare, cursors: Mapping[int, str]
) -> None:
    """The main function of the process: connect at once, count from "start", send the result at "stop".

    `cursors`: the Last-Event-ID that the subscribers of a topic send, by the topic's number.
    """
    raise_limit()
    gc.disable()
    SubscriberPool(pipe, load, target, share, cursors).run()


class SubscriberPool:
    """The subscribers of one process, and the epoll loop that serves them."""

    def __init__(
        self, pipe: Pipe, load: Load, target: Target, share: SubscriberShare, cursors: Mapping[int, str]
    ) -> None:
        self.pipe, self.load, self.target, self.share, self.cursors = pipe, load, target, share, cursors
        self.total = load.subscribers + load.stuck
        self.waiting = deque(range(share.first, self.total, share.step))
        self.epoll = select.epoll()
        self.open: dict[int, SubscriberConnection] = {}
        self.requests: dict[int, bytes] = {}
        self.in_flight = self.connected = self.refused = self.closed = 0
        self.refusal = ""
        self.first_ns = self.last_ns = 0
        self.connecting_reported = self.stopped = False
        self.buffer = bytearray(BUFFER)
        self.reset_counts()

    def reset_counts(self) -> None:
        self.delivered = self.delivered_ns = 0
        self.latencies: histogram.Counts = {}
        self.cpu_start_ns = time.process_time_ns()

    def run(self) -> None:
        """Run until the coordinator says stop."""
        self.epoll.register(self.pipe.fileno(), select.EPOLLIN)
        report_at = 0.0
        while not self.stopped:
            self.connect_due()
            for fd, events in self.epoll.poll(self.poll_seconds(), 4096):
                subscriber = self.open.get(fd)
                if subscriber is not None:
                    subscriber.on_ready(subscriber, events)
                elif fd == self.pipe.fileno():
                    self.receive_command()
            now = time.monotonic()
            if not self.stopped and (now >= report_at or self.has_just_connected()):
                report_at = now + REPORT_SECONDS
                self.report()
        self.close_all()

    def receive_command(self) -> None:
        """Execute a command. A closed pipe means stop."""
        try:
            command: Command = self.pipe.recv()
        except EOFError:
            self.stopped = True
            return
        if command == "start":
            self.reset_counts()
            self.pipe.send(CountingStarted())
            self.pipe.send(DeliveryCount(0))
            return
        self.stopped = True
        cpu = time.process_time_ns() - self.cpu_start_ns
        self.pipe.send(SubscriberResult(self.delivered, self.latencies, self.delivered_ns, self.closed, cpu))

    def has_just_connected(self) -> bool:
        """Whether all subscribers are connected or refused, and the coordinator does not know it yet."""
        return not self.connecting_reported and not self.waiting and not self.in_flight

    def report(self) -> None:
        if self.connecting_reported:
            self.pipe.send(DeliveryCount(self.delivered))
            return
        self.connecting_reported = self.has_just_connected()
        self.pipe.send(
            ConnectProgress(
                self.connected,
                self.refused,
                self.refusal,
                self.first_ns,
                self.last_ns,
                self.connecting_reported,
            )
        )

    def close_all(self) -> None:
        for subscriber in self.open.values():
            subscriber.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            subscriber.sock.close()

    # Connecting. The states of a connection: send_request -> read_head (-> read_replay) -> read_events

    def poll_seconds(self) -> float:
        """How long to wait in epoll; short if the next connection is due at a certain time."""
        return 0.001 if self.waiting and self.share.connect_rate else REPORT_SECONDS

    def connect_due(self) -> None:
        """Open as many connections as the rate and the limit in flight allow."""
        if self.waiting and not self.first_ns:
            self.first_ns = time.monotonic_ns()
        while self.waiting and self.in_flight < self.share.in_flight and self.is_due():
            self.connect(self.waiting.popleft())

    def is_due(self) -> bool:
        opened = self.connected + self.refused + self.in_flight
        seconds = (time.monotonic_ns() - self.first_ns) / 1e9
        return not self.share.connect_rate or opened <= seconds * self.share.connect_rate

    def connect(self, number: int) -> None:
        """Start connection number `number` of the run; epoll reports when it is connected."""
        sock = socket.socket(self.target.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        stuck = number >= self.load.subscribers
        if stuck:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_RECEIVE_BUFFER)
        source = source_address(number, self.total, self.target)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        self.in_flight += 1
        self.open[sock.fileno()] = SubscriberConnection(
            sock, number % self.load.topics, stuck, self.load.replay, self.send_request
        )
        sock.connect_ex((self.target.host, self.target.port))
        self.epoll.register(sock.fileno(), EPOLL_EVENTS)

    def send_request(self, subscriber: SubscriberConnection, _events: int) -> None:
        subscriber.on_ready = self.read_head
        try:
            subscriber.sock.send(self.request(subscriber.topic))
        except OSError as error:
            self.refuse(subscriber, error_text(error))

    def request(self, topic: int) -> bytes:
        """The request, the same for all subscribers of a topic."""
        request = self.requests.get(topic)
        if request is None:
            cursor = self.cursors.get(topic)
            more = (f"Last-Event-ID: {cursor}",) if cursor else ()
            request = self.requests[topic] = self.target.head(
                "GET", topic, "Accept: text/event-stream", *more
            )
        return request

    def read_head(self, subscriber: SubscriberConnection, events: int) -> None:
        length = self.receive(subscriber, 512 if subscriber.stuck else BUFFER)
        if length == 0:
            return
        subscriber.head += self.buffer[: max(0, length)]
        head, end, rest = bytes(subscriber.head).partition(b"\r\n\r\n")
        if end and is_event_stream(head):
            subscriber.head.clear()
            subscriber.replay -= rest.count(stamps.MARK)
            subscriber.on_ready = self.read_replay
            self.check_connected(subscriber)
            if not subscriber.stuck and (length == BUFFER or events & ENDING):
                subscriber.on_ready(subscriber, events)
        elif end or length < 0:
            self.refuse(subscriber, status_line(head) or "closed without a response")

    def read_replay(self, subscriber: SubscriberConnection, events: int) -> None:
        while (length := self.receive(subscriber, BUFFER)) > 0:
            subscriber.replay -= stamps.count(self.buffer, length)
            if length < BUFFER and not events & ENDING:
                break
        if length < 0:
            self.refuse(subscriber, "closed before all events were replayed")
        else:
            self.check_connected(subscriber)

    def check_connected(self, subscriber: SubscriberConnection) -> None:
        """Count the subscriber as connected if the replay is complete."""
        if subscriber.replay > 0:
            return
        self.in_flight -= 1
        self.connected += 1
        self.last_ns = time.monotonic_ns()
        subscriber.on_ready = self.read_events
        if subscriber.stuck:
            self.epoll.unregister(subscriber.sock)

    def refuse(self, subscriber: SubscriberConnection, reason: str) -> None:
        """Count the subscriber as refused and close it."""
        self.in_flight -= 1
        self.refused += 1
        self.refusal = self.refusal or reason
        self.close(subscriber)

    # Reading.

    def receive(self, subscriber: SubscriberConnection, limit: int) -> int:
        """Read into the buffer. Returns the number of bytes; 0 if there are none, -1 if the server has closed."""
        try:
            return subscriber.sock.recv_into(self.buffer, limit) or -1
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def read_events(self, subscriber: SubscriberConnection, events: int) -> None:
        """Count the events, and draw one of each chunk for its latency."""
        buffer = self.buffer
        while (length := self.receive(subscriber, BUFFER)) > 0:
            count = stamps.count(buffer, length)
            if count:
                self.delivered += count
                self.delivered_ns = time.monotonic_ns()
                stamp = stamps.draw(buffer, length, random.random() if count > 1 else 0.0)
                if stamp:
                    histogram.add(self.latencies, self.delivered_ns - stamp, count)
            if length < BUFFER and not events & ENDING:
                return
        if length < 0:
            self.closed += 1
            self.close(subscriber)

    def close(self, subscriber: SubscriberConnection) -> None:
        del self.open[subscriber.sock.fileno()]
        subscriber.sock.close()
