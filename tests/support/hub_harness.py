"""A hub with real sockets, and a loop that the test turns."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

from broker import sse
from broker.auth.grants import UNRESTRICTED_CALLER
from broker.fanout.close_reason import CloseReason
from broker.fanout.feed import FeedKey
from broker.fanout.hub import Hub
from broker.fanout.owner import StreamTimes
from broker.fanout.subscriber import Subscriber
from broker.log.log import Log
from broker.measures import Distribution
from broker.sse import Decoder
from broker.topics import Retention
from tests.support.http import ChunkDecoder
from tests.support.waiting import WAIT_SECONDS

KEEP = Retention(1_000_000, 1 << 30, 1e9)
BUFFER = 16 << 10


class HubHarness:
    """A hub; its owner, logs and loop; and the far ends of its subscribers' connections.

    Time is the test's (`now`); what the hub schedules runs when the test calls `turn`. The logs are complete up to their
    last event, unless the test sets `incomplete_after`.
    """

    def __init__(self, max_age_seconds: float = 0) -> None:
        self.now = 1000.0
        self.last = 0
        self.incomplete_after: int | None = None
        self.logs: dict[str, Log] = {}
        self.retention = KEEP
        self.scheduled: list[Callable[[], object]] = []
        self.closes: list[CloseReason] = []
        self.gaps: list[str] = []
        self.written = Distribution("written", "")
        self.replays: list[float] = []
        self.released: list[str] = []
        self.far: dict[Subscriber, socket.socket] = {}
        self.chunks: dict[Subscriber, ChunkDecoder] = {}
        self.hub = Hub(self, self, self, StreamTimes(15, 30, max_age_seconds))

    # The hub's loop

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.scheduled.append(callback)

    # Where its logs come from

    @property
    def complete_to(self) -> int:
        return self.last if self.incomplete_after is None else self.incomplete_after

    def unwatch(self, topics: Sequence[str]) -> None:
        self.released.extend(topics)

    def trim(self, topic: str) -> None:
        self.logs[topic].trim(0)

    def resume(self) -> None:
        pass

    # Its owner

    def closed(self, subscriber: Subscriber, reason: CloseReason, age: float) -> None:
        self.closes.append(reason)

    def gap_sent(self, _topics: Sequence[str], reason: str, subscribers: int) -> None:
        self.gaps.extend([reason] * subscribers)

    def replayed(self, seconds: float) -> None:
        self.replays.append(seconds)

    def aged(self, subscriber: Subscriber) -> None:
        self.hub.finish(subscriber, CloseReason.MAX_AGE, b"retry: 1\n")

    # What tests do

    def log(self, topic: str) -> Log:
        if topic not in self.logs:
            self.logs[topic] = Log(0, self.retention)
        return self.logs[topic]

    def publish(self, topic: str, data: bytes, published_at: float = 0.0) -> int:
        self.last += 1
        frame = sse.frame(sse.lines(data), self.last)
        self.log(topic).append(self.last, frame)
        self.log(topic).trim(0)
        self.hub.fan_out.delivered(topic, len(frame), published_at)
        return self.last

    def publish_at_once(self, topic: str, *events: bytes) -> int:
        """Publish a few events, so that they may be written at once."""
        size = 0
        for data in events:
            self.last += 1
            frame = sse.frame(sse.lines(data), self.last)
            self.log(topic).append(self.last, frame)
            size += len(frame)
        self.hub.fan_out.delivered_at_once(topic, size)
        self.log(topic).trim(0)
        return self.last

    def publish_after_gap(self, topic: str, data: bytes, prev: int) -> int:
        """Publish an event after `prev`, an entry that this instance has never seen: what lay before it is lost."""
        self.last = prev + 1
        frame = sse.frame(sse.lines(data), self.last)
        self.log(topic).append_gap(prev, "lost")
        self.log(topic).append_after(prev, self.last, frame)
        self.hub.fan_out.delivered(topic, len(frame))
        return self.last

    def lose(self, *topics: str) -> None:
        """Have the store go back: what lay before this moment is lost, in all of `topics`."""
        self.last += 1
        for topic in topics:
            self.log(topic).lose(self.last)
            self.hub.fan_out.delivered(topic, 0)

    def close(self, topic: str) -> None:
        self.last += 1
        frame = sse.end(topic, "closed", self.last)
        self.log(topic).close(self.last, frame)
        self.hub.fan_out.delivered(topic, len(frame))

    def delete(self, topic: str) -> None:
        self.last += 1
        frame = sse.control("broker.end", {"topic": topic}, self.last)
        self.log(topic).clear(self.last, frame)
        self.hub.fan_out.delivered(topic, len(frame))

    async def subscribe(
        self,
        *topics: str,
        cursor: int | None = None,
        floors: Sequence[int] = (),
        is_gone: bool = False,
        is_enveloped: bool = False,
        chunked: bool = True,
        silent: bool = False,
    ) -> Subscriber:
        """A new subscriber; with `is_gone` its far end has reset the connection, and the near one doesn't know."""
        near, far = tcp_pair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
        transport.set_write_buffer_limits(high=0)
        if is_gone:
            reset(far)
        start = self.last if cursor is None else cursor
        key = FeedKey(topics, is_enveloped, tuple(floors), chunked, silent)
        subscriber = self.hub.attach(
            transport, UNRESTRICTED_CALLER, key, [self.log(topic) for topic in topics], start, b""
        )
        self.far[subscriber] = far
        if chunked:
            self.chunks[subscriber] = ChunkDecoder()
        return subscriber

    def turn(self) -> bool:
        """One turn of the loop: run all calls that are scheduled now."""
        scheduled, self.scheduled[:] = list(self.scheduled), []
        for call in scheduled:
            call()
        return bool(scheduled)

    def run(self) -> None:
        while self.turn():
            pass

    def read(self, subscriber: Subscriber) -> bytes:
        """All that has arrived at the far end, without the framing of chunks."""
        data = b""
        while more := self.receive(subscriber, 1 << 20):
            data += more
        return self.chunks[subscriber].feed(data) if subscriber.chunked else data

    def receive(self, subscriber: Subscriber, most: int) -> bytes:
        """At most that many bytes that have arrived at the far end, as they came over the wire."""
        try:
            return self.far[subscriber].recv(most)
        except BlockingIOError:
            return b""

    def is_complete(self, subscriber: Subscriber) -> bool:
        """Whether the last chunk has been read."""
        return self.chunks[subscriber].is_complete

    async def closing(self, count: int = 1) -> None:
        """Let the loop work until `count` connections are gone."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.closes) < count:
                await asyncio.sleep(0)

    async def read_all(self, subscriber: Subscriber, until: int) -> list[int]:
        """Read, and let the loop and the hub work, until the event with id `until` came; the ids."""
        decoder, ids = Decoder(), [0]
        async with asyncio.timeout(WAIT_SECONDS):
            while ids[-1] < until:
                ids += [int(event.id.split("-")[1]) for event in decoder.feed(self.read(subscriber))]
                self.run()
                await asyncio.sleep(0)
        return ids[1:]


def reset(end: socket.socket) -> None:
    """Close it so that the other end's next write fails."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a loopback connection; the near one sends, the far one has a small buffer to receive."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    for end in (near, far):
        end.setblocking(False)
    return near, far
