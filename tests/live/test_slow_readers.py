"""Readers that read slowly, or not at all, delay no other client, cost no more than the settings allow, and lose nothing without a gap.

`TEST_SCALE=0.1 pytest tests/live/test_slow_readers.py` is a tenth of the crowd and of the flood.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from broker.fanout.backpressure import MAX_TOPIC_BYTES
from broker.fanout.feed import PIECE_BYTES
from broker.log.entry import ENTRY_OVERHEAD_BYTES
from broker.process.listening import SEND_BUFFER_BYTES
from tests.live.crowd import SMALL_BUFFER_BYTES, BadReaders, BadReading, GoodReaders
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.publisher import Publisher
from tests.support.scale import SCALE, scaled
from tests.support.waiting import wait_for

GOOD, STUCK, SLOW = (scaled(count) for count in (1000, 200, 200))
FLOOD_BYTES = int(50_000_000 * SCALE)
SLOW_SECONDS = 20 if SCALE == 1 else 8  # the full crowd keeps a slow machine busy for seconds
"""Good readers are read in turn, and slow ones by a process that must get its share of the machine."""
SLOW_BYTES_PER_SECOND = 1000
EVENT_BYTES = 2000
BATCH_EVENTS = 128
TOPIC = "flood"

RETENTION_EVENTS = 1000
RETENTION_BYTES = 1 << 20
CONNECTION_BYTES = 8 << 10
"""The memory that an open stream may take, without the events on their way to it: generous; `tests/bench` measures it."""
SLACK_BYTES = 24 << 20
"""For what the process itself needs while it works: requests, answers, the allocator's reserve."""


def kernel_bytes() -> int:
    """What the kernel holds for all of TCP, both ends of a loopback connection counted."""
    found = re.search(r"TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text())
    assert found
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def closed_as_slow(broker: BrokerProcess) -> int:
    return int(broker.metric('broker_closes_total{reason="slow"}'))


def resident_bound(streams: int, lagging: int) -> int:
    """I4: the memory that the broker may take in addition to its memory without clients."""
    log = RETENTION_BYTES + RETENTION_EVENTS * ENTRY_OVERHEAD_BYTES
    batch = BATCH_EVENTS * (EVENT_BYTES + ENTRY_OVERHEAD_BYTES + 100)
    on_its_way = MAX_TOPIC_BYTES + batch
    return streams * CONNECTION_BYTES + lagging * PIECE_BYTES + log + 2 * on_its_way + SLACK_BYTES


def kernel_bound(lagging: int) -> int:
    """I4: the kernel doubles both buffers, and takes one more segment of up to 64 KiB than it has room for."""
    return lagging * (2 * SEND_BUFFER_BYTES + (64 << 10) + 4 * SMALL_BUFFER_BYTES)


@pytest.mark.exclusive  # it asserts a bound on the kernel's memory for all of TCP
@pytest.mark.timeout(1200)  # 50 GB pass through the machine
def test_i3_i4_slow_readers_among_good_ones() -> None:
    settings = {
        "slow_seconds": SLOW_SECONDS,
        "heartbeat_seconds": 3600,  # bad readers are compared byte for byte
        "retention_events": RETENTION_EVENTS,
        "retention_bytes": RETENTION_BYTES,
    }
    bad = STUCK + SLOW
    kernel_before = kernel_bytes()
    with BrokerProcess(**settings) as broker, Publisher(broker.port) as publisher:
        resident_before = broker.resident_bytes()
        with (
            GoodReaders(broker.port, TOPIC, GOOD) as good,
            BadReaders(
                broker.port, TOPIC, stuck=STUCK, slow=SLOW, bytes_per_second=SLOW_BYTES_PER_SECOND
            ) as readers,
        ):
            kernel: list[int] = []
            resident: list[int] = []
            while len(publisher.published) * EVENT_BYTES < FLOOD_BYTES:
                publisher.publish_numbered(TOPIC, BATCH_EVENTS, EVENT_BYTES)
                good.catch_up(
                    len(publisher.published)
                )  # the next batch waits for all good readers, for no bad one
                if broker.metric("broker_lagging_subscribers") == bad and not closed_as_slow(broker):
                    kernel.append(kernel_bytes() - kernel_before)
                    resident.append(broker.resident_bytes() - resident_before)
            assert good.data == publisher.published, "in order, once, all of it"
            assert len(set(good.ids)) == len(good.ids)

            assert kernel, "at no moment did all bad readers lag"
            assert max(resident) <= resident_bound(GOOD + bad, bad)
            assert peak_resident_bytes(broker.pid) - resident_before <= resident_bound(GOOD + bad, GOOD + bad)
            assert min(kernel) <= kernel_bound(bad), "others on this machine can only add to it"

            wait_for(lambda: closed_as_slow(broker) >= STUCK, "the stuck ones to be closed")
            assert closed_as_slow(broker) == STUCK, "a slow reader is not cut while bytes still move"
            stuck, slow = readers.read_to_the_end()
            assert {reading.ended for reading in stuck} == {"reset"}, (
                "so that the kernel drops the unread bytes"
            )
            assert {(reading.ended, reading.whole) for reading in slow} == {("end", True)}
            body = good.body
            assert all(reading.is_prefix_of(body) for reading in stuck + slow)
            wait_for(lambda: closed_as_slow(broker) == bad, "all bad ones to be closed as slow")
            assert broker.metric("broker_subscribers") == GOOD
            for reading in (*stuck[:20], *slow[:20]):
                resumes_or_gets_a_gap(broker, good, reading)


def resumes_or_gets_a_gap(broker: BrokerProcess, good: GoodReaders, reading: BadReading) -> None:
    """I2: a reconnect with the last id gets the rest, or the gap and then the events that are kept."""
    seen = good.body[: reading.size].count(b"\n\n")
    cursor = good.ids[seen - 1]
    with Stream(broker.port, f"/topics/{TOPIC}?lastEventId={cursor}") as stream:
        last = good.ids[-1]
        while not stream.events or stream.events[-1].id != last:
            assert stream.read()
    first, *events = stream.events
    if first.type == "broker.gap":
        assert json.loads(first.data) == {"topic": TOPIC, "after": cursor, "reason": "trimmed"}
        assert events[0].id != good.ids[seen], "a gap that is none"
    else:
        assert first.id == good.ids[seen]
        events = stream.events
    assert [event.id for event in events] == good.ids[-len(events) :]


def test_a_reader_is_not_cut_within_an_event_that_still_moves() -> None:
    """Each takes more than twice `slow_seconds` for its event: one that the socket takes whole, and one that it doesn't."""
    loads = {"small": (60_000, 3_500), "large": (200_000, 12_000)}  # bytes, bytes per second
    with (
        BrokerProcess(slow_seconds=8, heartbeat_seconds=1, retention_events=3) as broker,
        Stream(broker.port, "/topics/small", receive_buffer=SMALL_BUFFER_BYTES).opened() as small,
        Stream(broker.port, "/topics/large", receive_buffer=SMALL_BUFFER_BYTES).opened() as large,
    ):
        streams = {"small": small, "large": large}
        for topic, (size, _) in loads.items():
            for data in ("x" * size, "1", "2", "3", "4"):
                broker.publish(topic, data)
        while any(len(stream.events) < 2 for stream in streams.values()):
            time.sleep(0.05)  # this is how slow they are
            for topic, (size, rate) in loads.items():
                if len(streams[topic].events) < 2:
                    assert streams[topic].read(rate // 20), f"{topic}: cut within its event of {size} bytes"
        for topic, (size, _) in loads.items():
            assert streams[topic].events[1].data == "x" * size
        assert [event.data for event in small.wait_for_events(6)[2:]] == ["1", "2", "3", "4"]
        while large.read():
            pass
        wait_for(lambda: closed_as_slow(broker) == 1, "it to be closed: meanwhile the log had moved past it")
        with Stream(broker.port, f"/topics/large?lastEventId={large.events[-1].id}") as again:
            assert again.wait_for_events(1)[0].type == "broker.gap"
            assert [event.data for event in again.wait_for_events(4)[1:]] == ["2", "3", "4"]


@pytest.mark.parametrize(
    "target",
    ["/topics/flood", "/topics?topic=flood&topic=other", "/topics?topic=flood&topic=other&envelope=json"],
    ids=["one topic", "two topics", "envelope"],
)
def test_a_reader_that_stalls_no_longer_than_the_log_reaches_continues(target: str) -> None:
    with (
        BrokerProcess(retention_events=10_000, retention_bytes=16 << 20) as broker,
        Publisher(broker.port) as publisher,
        Stream(broker.port, target, receive_buffer=SMALL_BUFFER_BYTES).opened() as stream,
    ):
        others = []
        for number in range(3):
            publisher.publish_numbered("flood", 100, EVENT_BYTES)
            if "other" in target:
                others.append(f"between {number}")
                broker.publish("other", others[-1])
        wait_for(lambda: broker.metric("broker_lagging_subscribers") == 1, "the reader to lag")
        _, *events = stream.wait_for_events(1 + len(publisher.published) + len(others))
        data = [json.loads(event.data)["data"] if "envelope" in target else event.data for event in events]
        in_order = [*publisher.published]
        for number, other in enumerate(others):
            in_order.insert(100 * (number + 1) + number, other)
        assert data == in_order
        broker.publish("flood", "live")
        assert "live" in stream.wait_for_events(len(events) + 2)[-1].data
        assert closed_as_slow(broker) == 0
        wait_for(lambda: broker.metric("broker_lagging_subscribers") == 0, "the reader to be up to date")


def test_a_reader_closed_as_slow_continues_by_its_cursor() -> None:
    with (
        BrokerProcess(slow_seconds=1, retention_events=10_000, retention_bytes=16 << 20) as broker,
        Publisher(broker.port) as publisher,
    ):
        with Stream(broker.port, "/topics/flood", receive_buffer=SMALL_BUFFER_BYTES).opened() as stream:
            publisher.publish_numbered("flood", 10, 10)
            seen = stream.wait_for_events(11)[1:]
            publisher.publish_numbered("flood", 300, EVENT_BYTES)
            wait_for(lambda: closed_as_slow(broker) == 1, "the reader to be closed")
        while len(seen) < len(publisher.published):  # a test that stalls is slow again
            with Stream(broker.port, f"/topics/flood?lastEventId={seen[-1].id}") as again:
                while len(seen) + len(again.events) < len(publisher.published) and again.read():
                    pass
            assert again.events
            seen += again.events
        assert [event.data for event in seen] == publisher.published


def test_good_readers_leave_heartbeats_out() -> None:
    with (
        BrokerProcess(heartbeat_seconds=0.1) as broker,
        Publisher(broker.port) as publisher,
        GoodReaders(broker.port, TOPIC, 3) as good,
        Stream(broker.port, f"/topics/{TOPIC}").opened() as other,
    ):
        for rounds in range(1, 4):
            while other.body.count(b":\n") < 2 * rounds:
                assert other.read()
            publisher.publish_numbered(TOPIC, 2, 10)
            good.catch_up(len(publisher.published))
        assert good.data == publisher.published
        assert b":\n" not in good.body
