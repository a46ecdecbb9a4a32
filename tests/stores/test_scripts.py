"""The scripts alone, on real servers: their changes, replies and payloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker import sse
from broker.events import EventId, format_id
from broker.stores.redis.formats import TopicUpdate, decode_payload
from tests.stores.conftest import StartServer
from tests.stores.scripts_caller import (
    DAY_MS,
    KEY_AGE,
    KEYS,
    NAMES,
    SCRIPTS,
    STATE,
    USED,
    Caller,
    Described,
    Entry,
    Kept,
    Published,
    age,
    channel,
    log_key,
    rec_key,
    to_id,
)
from tests.support.redis_servers import Server
from tests.support.waiting import WAIT_SECONDS, wait_for

MARGIN_MS = 10_000
ALL_SCRIPTS = [SCRIPTS.publish, SCRIPTS.read, SCRIPTS.delete, SCRIPTS.describe, SCRIPTS.forget]
MAX_ID = "18446744073709551615-18446744073709551615"
LINES = b"data: x\n"

few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the server is emptied by each example


def frame_bytes(event_id: EventId, lines: bytes) -> int:
    return len(lines) + len(f"id: {format_id(event_id)}\n\n")


def ms_of(event_id: EventId) -> int:
    return event_id >> 64


def at(ms: int) -> EventId:
    return ms << 64


def server_ms(client: Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def wait_for_tick(client: Redis) -> None:
    """Wait until the server's clock shows another millisecond."""
    now = server_ms(client)
    wait_for(lambda: server_ms(client) > now, "the clock goes on")


@pytest.fixture
def client(shared_server: Server) -> Iterator[Redis]:
    """A client of an empty server."""
    with shared_server.client() as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)  # others use the server after this
        client.config_set("min-replicas-to-write", 0)


@pytest.fixture
def caller(client: Redis) -> Caller:
    return Caller(client)


class ChannelListener:
    """The payloads on the broker's channels."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.psubscribe("broker:*")
        self.new_payloads()

    def new_payloads(self) -> list[tuple[str, bytes]]:
        """The payloads since the last call, as (channel, payload)."""
        self._client.publish("broker:0:_mark", "")
        payloads: list[tuple[str, bytes]] = []
        while True:
            reply = self._pubsub.get_message(timeout=WAIT_SECONDS)
            assert reply is not None
            if reply["channel"] == b"broker:0:_mark":
                return payloads
            if reply["type"] == "pmessage":
                payloads.append((reply["channel"].decode(), reply["data"]))

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def listener(client: Redis) -> Iterator[ChannelListener]:
    listener = ChannelListener(client)
    yield listener
    listener.close()


# The texts


def test_each_script_has_its_own_sha(client: Redis) -> None:
    assert len({script.text for script in ALL_SCRIPTS}) == len(ALL_SCRIPTS)
    for script in ALL_SCRIPTS:
        assert client.script_load(script.text) == script.sha


# Ids


def test_store_is_born_by_the_first_call(caller: Caller, client: Redis) -> None:
    before = server_ms(client)
    caller.read()
    assert before <= ms_of(caller.born) <= server_ms(client)
    assert caller.seen == caller.born == caller.floor
    assert caller.rewinds == []
    assert before <= caller.epoch <= server_ms(client)


def test_ids_strictly_increase_over_all_topics_and_follow_the_clock(caller: Caller, client: Redis) -> None:
    ids = [event_id for topic in "abcab" for event_id in caller.publish((topic, LINES)).ids]
    assert ids == sorted(set(ids))
    assert ids[-1] == caller.seen
    assert abs(ms_of(ids[-1]) - server_ms(client)) < 5000


def test_ids_increase_when_the_clock_steps_back(caller: Caller, client: Redis) -> None:
    caller.publish(("a", LINES))
    ahead = server_ms(client) + 1_800_000
    client.hset(STATE, mapping={"ms": ahead, "n": 7})
    caller.seen = at(ahead) + 7
    assert caller.publish(("a", LINES), ("b", LINES)).ids == [at(ahead) + 8, at(ahead) + 9]
    assert caller.delete("a") == at(ahead) + 10
    caller.read()
    assert caller.rewinds == []


def test_expiries_follow_ids_that_are_ahead_of_the_clock(caller: Caller, client: Redis) -> None:
    caller.read()
    ahead = server_ms(client) + DAY_MS
    client.hset(STATE, mapping={"ms": ahead, "n": 0})
    caller.publish(("a", LINES), kept=Kept(ms=60_000))
    assert client.pttl(log_key("a")) > DAY_MS


# Publish


def test_prev_is_the_id_of_the_entry_before(caller: Caller) -> None:
    caller.read()
    born = caller.born
    first = caller.publish(("a", b"data: 1\n"), ("b", b"data: x\n"), ("a", b"data: 2\n")).ids
    second = caller.publish(("a", b"data: 3\n")).ids
    assert caller.read_one("a").entries == [
        Entry(first[0], born, b"data: 1\n"),
        Entry(first[2], first[0], b"data: 2\n"),
        Entry(second[0], first[2], b"data: 3\n"),
    ]
    assert first == [first[0], first[0] + 1, first[0] + 2]


def update_of(payload: bytes) -> TopicUpdate:
    update = decode_payload(payload)
    assert isinstance(update, TopicUpdate)
    return update


def ids_as_before(payload: bytes) -> tuple[list[EventId], EventId]:
    """The ids, and up to which all is announced, as the version before the moment of publishing read them."""
    words = payload.partition(b"\n")[0].split(b" ")
    first = int(words[3]) << 64 | int(words[4])
    return [first + int(offset) for offset in words[7::2]], first + int(words[5]) - 1


def test_payloads(caller: Caller, listener: ChannelListener) -> None:
    caller.read()
    ms = caller.now_ms()
    items = ("a", b"data: 1\n"), ("b", b"data: x\n"), ("a", b"event: t\ndata: 22\n")
    ids = caller.publish(*items, published_ms=ms).ids
    of_a = [(ids[0], sse.frame(b"data: 1\n", ids[0])), (ids[2], sse.frame(b"event: t\ndata: 22\n", ids[2]))]
    of_b = [(ids[1], sse.frame(b"data: x\n", ids[1]))]
    sizes = [sum(len(frame) for _, frame in entries) for entries in (of_a, of_b)]
    assert [(name, update_of(payload)) for name, payload in listener.new_payloads()] == [
        (
            channel("a"),
            TopicUpdate(caller.epoch, caller.born, ids[2], of_a, sizes[0], ids[0], published_ms=ms),
        ),
        (
            channel("b"),
            TopicUpdate(caller.epoch, caller.born, ids[1], tuple(of_b), sizes[1], ids[2], published_ms=ms),
        ),
    ]
    (last,) = caller.publish(("a", "data: ü\n".encode())).ids
    ((name, payload),) = listener.new_payloads()
    assert payload.endswith(b" 1 %b 9\ndata: \xc3\xbc\n" % payload.split(b" ")[7])
    assert (name, update_of(payload).prev, update_of(payload).last) == (channel("a"), ids[2], last)


@pytest.mark.parametrize("skew_ms", [0, 1, -1, -37, 5000, -5000, DAY_MS, -DAY_MS, -(10**12)])
@pytest.mark.parametrize("sequence", [0, 7, 10**9])
def test_the_moment_of_publishing_travels_with_the_ids(
    caller: Caller, listener: ChannelListener, client: Redis, skew_ms: int, sequence: int
) -> None:
    """Clocks may differ by any time, and ids may lie ahead of the server's clock. An older instance reads the same ids."""
    caller.read()
    ahead = server_ms(client) + 3_600_000
    client.hset(STATE, mapping={"ms": ahead, "n": sequence})
    caller.seen = at(ahead) + sequence
    published_ms = ahead + skew_ms
    ids = caller.publish(("a", LINES), ("b", LINES), ("a", LINES), published_ms=published_ms).ids
    assert ids == [at(ahead) + sequence + n for n in (1, 2, 3)]
    (_, of_a), (_, of_b) = listener.new_payloads()
    assert [ids_as_before(of_a), ids_as_before(of_b)] == [([ids[0], ids[2]], ids[0]), ([ids[1]], ids[2])]
    for payload in (of_a, of_b):
        assert update_of(payload).published_ms == (published_ms if skew_ms > -(10**12) else ahead)


@pytest.mark.parametrize("published_ms", [0, 1, 10**15])
def test_a_clock_that_is_decades_wrong_harms_no_id(
    caller: Caller, listener: ChannelListener, published_ms: int
) -> None:
    (event_id,) = caller.publish(("a", LINES), published_ms=published_ms).ids
    ((_, payload),) = listener.new_payloads()
    assert update_of(payload).last == event_id
    assert update_of(payload).published_ms == ms_of(event_id), "the id's time stands in for it"


def test_a_full_batch_is_one_payload(caller: Caller, listener: ChannelListener) -> None:
    ids = caller.publish(*[("a", b"data: %d\n" % number) for number in range(128)]).ids
    assert ids == list(range(ids[0], ids[0] + 128))
    assert caller.read_one("a").ids == ids
    ((_, payload),) = listener.new_payloads()
    _, _, lines = payload.partition(b"\n")
    assert lines == b"".join(b"data: %d\n" % number for number in range(128))
    assert [event_id for event_id, _ in update_of(payload).entries] == ids
    assert ids_as_before(payload) == (ids, ids[-1])


@pytest.mark.parametrize(
    ("topics", "announced"),
    [("ab", [1, 2]), ("aba", [1, 3]), ("abab", [1, 4]), ("aabb", [2, 4]), ("abca", [1, 2, 4])],
)
def test_each_payload_says_how_far_all_topics_are_announced(
    caller: Caller, listener: ChannelListener, topics: str, announced: list[int]
) -> None:
    first = caller.publish(*[(topic, LINES) for topic in topics]).ids[0]
    updates = [update_of(payload) for _, payload in listener.new_payloads()]
    assert [update.announced_to - first + 1 for update in updates] == announced


def test_first_prev_is_no_later_than_the_stores_last_id(caller: Caller) -> None:
    """A cursor at the store's last id has missed nothing of a topic that begins afterwards, even years later."""
    caller.memory_ms = 1
    (before,) = caller.publish(("a", LINES)).ids
    wait_for(lambda: server_ms(caller.client) > ms_of(before) + 2, "the first event is out of memory")
    caller.publish(("b", LINES))
    assert caller.read_one("b").entries[0].prev == before


def test_first_prev_reaches_back_as_far_as_topics_are_remembered(caller: Caller, client: Redis) -> None:
    caller.memory_ms = 1000
    caller.read()
    client.hset(STATE, mapping={"born": "5-0", "floor": "6-0"})
    caller.publish(("a", LINES))
    (event_id,) = caller.publish(("b", LINES)).ids
    assert caller.read_one("b").entries[0].prev in {at(ms_of(event_id) - 1000), event_id - 1}


def test_first_prev_reaches_back_to_the_floor(caller: Caller, client: Redis) -> None:
    caller.memory_ms = 1 << 50
    caller.read()
    client.hset(STATE, mapping={"born": "5-0", "floor": "6-0"})
    caller.publish(("c", LINES))
    assert caller.read_one("c").entries[0].prev == to_id("6-0")


def test_i2_a_longer_topic_memory_raises_the_floor(caller: Caller, client: Redis) -> None:
    """A record may have expired by the shorter one, or will. A caller with a shorter one doesn't change it."""
    caller.memory_ms = 1000
    (first,) = caller.publish(("a", LINES)).ids
    epoch = caller.epoch
    longer = Caller(client)
    longer.read()
    assert (longer.floor, longer.epoch) == (first, epoch + 1)
    for each in (caller, longer):
        each.publish(("a", LINES))
        assert 7 * DAY_MS < client.pttl(rec_key("a")) <= 7 * DAY_MS + 2000, "set again, though it is new"
        each.read()
        assert (each.floor, each.epoch) == (first, epoch + 1)


def test_a_topic_memory_that_no_instance_sets_any_longer_is_shortened(caller: Caller, client: Redis) -> None:
    caller.publish(("a", LINES))
    shorter = Caller(client, memory_ms=1000)
    for named_ms_ago, memory in ((7 * DAY_MS, 7 * DAY_MS), (7 * DAY_MS + 61_000, 1000)):
        client.hset(STATE, "named", server_ms(client) - named_ms_ago)
        shorter.forget()
        assert int(client.hget(STATE, "memory") or 0) == memory
    caller.forget()
    assert int(client.hget(STATE, "memory") or 0) == 7 * DAY_MS


def test_a_state_of_an_older_version_gets_a_memory(caller: Caller, client: Redis) -> None:
    """Which one its callers had is unknown."""
    (first,) = caller.publish(("a", LINES)).ids
    client.hdel(STATE, "memory", "longer", "named")
    caller.read()
    assert caller.floor == first


def test_a_log_without_the_state_is_ignored(caller: Caller, client: Redis) -> None:
    caller.read()
    client.hset(STATE, mapping={"ms": server_ms(client) + DAY_MS})
    caller.publish(("a", LINES), ("a", LINES))
    caller.delete("a")
    caller.publish(("a", LINES))
    client.delete(STATE)
    other = Caller(client)
    assert other.read_one("a").last is None
    assert other.describe("a") == [Described(0, 0, None, None)]
    assert other.delete("a") is None
    (event_id,) = other.publish(("a", b"data: new\n")).ids
    read = other.read_one("a")
    assert read.entries == [Entry(event_id, other.born, b"data: new\n")]
    assert read.cleared_at is None


# Retention

calls = st.lists(st.lists(st.sampled_from([0, 1, 40, 200]), min_size=1, max_size=5), min_size=1, max_size=12)


@given(calls=calls, events=st.integers(1, 8), size=st.sampled_from([1, 100, 300, 100_000]))
@few
def test_retention_is_exact(client: Redis, calls: list[list[int]], events: int, size: int) -> None:
    client.flushall()
    caller = Caller(client)
    history: list[tuple[EventId, bytes]] = []
    for sizes in calls:
        lines = [b"data: " + b"x" * length + b"\n" for length in sizes]
        ids = caller.publish(*[("a", text) for text in lines], kept=Kept(events, size)).ids
        history += zip(ids, lines, strict=True)
        held = history[-events:]
        while len(held) > 1 and sum(frame_bytes(*entry) for entry in held) > size:
            held.pop(0)
        read = caller.read_one("a")
        assert [(entry.id, entry.lines) for entry in read.entries] == held
        total = sum(frame_bytes(*entry) for entry in held)
        assert caller.describe("a") == [Described(len(held), total, held[0][0], held[-1][0])]


def test_bytes_are_counted_anew_when_all_entries_were_too_old(caller: Caller, client: Redis) -> None:
    kept = Kept(bytes=200, ms=60_000)
    for _ in range(3):
        caller.publish(*[("a", b"data: " + b"x" * 50 + b"\n")] * 5, kept=kept)
        assert caller.describe("a", max_age_ms=60_000)[0].events == 2
        client.delete(log_key("a"))  # as if it had expired


def test_retention_by_age(caller: Caller, client: Redis) -> None:
    kept = Kept(ms=60_000)
    caller.publish(("a", b"data: 1\n"), ("a", b"data: 2\n"), kept=kept)
    age(client, "a", 40_000)
    (third,) = caller.publish(("a", b"data: 3\n"), kept=kept).ids
    assert caller.describe("a", max_age_ms=60_000)[0].events == 3
    age(client, "a", 30_000)
    third -= at(30_000)
    assert caller.read_one("a", max_age_ms=60_000).ids == [third]
    assert client.xlen(log_key("a")) == 3  # hidden; the next write drops them
    (fourth,) = caller.publish(("a", b"data: 4\n"), kept=kept).ids
    assert client.xlen(log_key("a")) == 2
    assert [entry.prev for entry in caller.read_one("a").entries][1:] == [third]
    age(client, "a", 61_000)
    assert caller.describe("a", max_age_ms=60_000) == [Described(0, 0, None, fourth - at(61_000))]
    assert client.xlen(log_key("a")) == 0


def test_keys_expire_and_a_busy_topic_does_not(caller: Caller, client: Redis) -> None:
    kept = Kept(ms=60_000)
    caller.publish(("a", LINES), kept=kept)
    assert 61_000 < client.pttl(log_key("a")) <= 62_000
    assert 7 * DAY_MS < client.pttl(rec_key("a")) <= 7 * DAY_MS + 2000
    client.pexpire(log_key("a"), 50_000)
    caller.publish(("a", LINES), kept=kept)
    assert client.pttl(log_key("a")) <= 50_000  # not set at every event
    for _ in range(3):  # but in time, even if the events are close together
        age(client, "a", 400)
        caller.publish(("a", LINES), kept=kept)
    assert client.pttl(log_key("a")) > 60_000


def test_a_log_does_not_outlive_its_record(caller: Caller, client: Redis) -> None:
    caller.publish(("a", LINES), kept=Kept(ms=3650 * DAY_MS))
    rec, log = (
        client.pttl(rec_key("a")),
        client.pttl(log_key("a")),
    )  # in this order, since time passes between
    assert log <= rec <= 7 * DAY_MS + 2000


# Read


@given(
    sizes=st.lists(st.integers(0, 60), max_size=40),
    after=st.integers(-1, 40),
    upto=st.integers(0, 40),
    page=st.sampled_from([1, 100, 500, 100_000]),
    most=st.sampled_from([1, 3, 1000]),
    newest=st.sampled_from([0, 2, 9, 1000]),
)
@few
def test_reading_by_pages(
    client: Redis, sizes: list[int], after: int, upto: int, page: int, most: int, newest: int
) -> None:
    client.flushall()
    caller = Caller(client)
    ids = [caller.publish(("a", b"x" * size)).ids[0] for size in sizes]
    caller.read()
    known = [caller.born, *ids, caller.seen + 5]
    cursor, end = known[min(after, len(ids)) + 1], known[min(upto, len(known) - 1)]
    expected = [event_id for event_id in ids if cursor < event_id <= end]
    got: list[EventId] = []
    while True:
        read = caller.read_one("a", cursor, format_id(end), page_bytes=page, page_entries=most, newest=newest)
        size = sum(frame_bytes(entry.id, entry.lines) for entry in read.entries)
        assert size <= page or len(read.entries) == 1
        assert len(read.entries) <= min(most, newest or most)
        got += read.ids
        assert read.more == (len(got) < len(expected))
        if not read.more:
            break
        if newest:
            end = got[-1] - 1
        else:
            cursor = got[-1]
    assert got == (expected[::-1] if newest else expected)
    assert read.last == (ids[-1] if ids else None)


def test_all_topics_share_the_room_of_a_page(caller: Caller) -> None:
    ids = {topic: caller.publish(*[(topic, b"x" * 100)] * 3).ids for topic in "abc"}
    a, b, c = caller.read(("a", "0-0", "+"), ("b", "0-0", "+"), ("c", "$", "+"), page_bytes=520)
    assert (a.ids, a.more) == (ids["a"], False)
    assert (b.ids, b.more) == (ids["b"][:1], True)
    assert (c.ids, c.more, c.last) == ([], False, ids["c"][-1])
    a, b = caller.read(("a", "0-0", "+"), ("b", "0-0", "+"), page_bytes=1)
    assert (a.ids, a.more) == (ids["a"][:1], True)
    assert (b.ids, b.more) == ([], True)


def test_all_topics_share_the_entries_of_a_page(caller: Caller) -> None:
    for topic in "abc":
        caller.publish(*[(topic, b"x")] * 3)
    for newest in (0, 9):
        ranges = [(topic, "0-0", "+") for topic in "abc"]
        read = caller.read(*ranges, page_entries=4, newest=newest)
        assert [len(one.ids) for one in read] == [3, 1, 0]
        assert [one.more for one in read] == [False, True, True]


def test_any_cursor_is_accepted(caller: Caller) -> None:
    caller.publish(("a", LINES))
    for cursor in (MAX_ID, "18446744073709551615-0", f"{ms_of(caller.seen)}-18446744073709551615", "0-0"):
        (read,) = caller.read(("a", cursor, "+"))
        assert len(read.entries) == (cursor == "0-0")
    (read,) = caller.read(("never", "0-0", "+"))
    assert (read.last, read.cleared_at, read.cleared_after, read.entries) == (None, None, None, [])


def test_probe_comes_after_what_was_published_before(caller: Caller, listener: ChannelListener) -> None:
    caller.publish(("a", LINES))
    caller.read(probe="broker:0:_probe:1")
    assert [name for name, _ in listener.new_payloads()] == [channel("a"), "broker:0:_probe:1"]
    caller.read(("a", "$", "+"), probe="broker:0:_probe:1")
    expected = f"P {caller.epoch} {format_id(caller.seen)}".encode()
    assert listener.new_payloads() == [("broker:0:_probe:1", expected)]
    caller.read()
    assert listener.new_payloads() == []


# Delete


def test_delete(caller: Caller, listener: ChannelListener, client: Redis) -> None:
    ids = caller.publish(("a", LINES), ("a", LINES)).ids
    listener.new_payloads()
    end = caller.delete("a")
    assert end is not None
    assert end > ids[-1]
    expected = f"D {caller.epoch} {format_id(ids[-1])} {format_id(end)}".encode()
    assert listener.new_payloads() == [(channel("a"), expected)]
    read = caller.read_one("a")
    assert (read.last, read.cleared_at, read.cleared_after, read.ids) == (end, end, ids[-1], [])
    assert caller.describe("a") == [Described(0, 0, None, end)]

    again = caller.delete("a")
    read = caller.read_one("a")
    assert (read.last, read.cleared_at, read.cleared_after) == (again, again, ids[-1])
    (new,) = caller.publish(("a", LINES)).ids
    assert caller.read_one("a").entries == [Entry(new, again or 0, LINES)]
    assert caller.describe("a") == [Described(1, frame_bytes(new, LINES), new, new)]
    assert client.zrange(NAMES, 0, -1) == [b"a"]
    assert 0 < client.pttl(log_key("a")) < 3_700_000
    assert client.pttl(rec_key("a")) > 7 * DAY_MS


@pytest.mark.parametrize("ends", [[], ["a"]])
def test_i2_a_delete_hides_no_loss(caller: Caller, ends: list[str]) -> None:
    """The topic may have had an event that the store lost: a cursor before the loss has not seen every event."""
    (last,) = caller.publish(("a", LINES), ends=ends).ids
    caller.seen += 1  # lost
    caller.delete("a")
    cleared_after = caller.read_one("a").cleared_after
    assert [resumed for _, _, resumed in caller.rewinds] == [cleared_after]
    assert cleared_after is not None
    assert cleared_after > last
    caller.delete("a")
    assert caller.read_one("a").cleared_after == cleared_after


def test_deleting_an_unknown_topic(caller: Caller, listener: ChannelListener, client: Redis) -> None:
    caller.read()
    last = caller.seen
    assert caller.delete("a") is None
    assert caller.seen == last
    assert listener.new_payloads() == []
    assert client.keys() == [STATE.encode()]


# Once only


def test_a_key_counts_once_per_topic(caller: Caller, listener: ChannelListener) -> None:
    first = caller.publish(("a", LINES), ("b", LINES), key="k")
    assert first.status == 0
    listener.new_payloads()
    assert caller.publish(("a", LINES), ("b", LINES), key="k") == Published(1, first.ids)
    assert listener.new_payloads() == []
    mixed = caller.publish(("b", LINES), ("c", LINES), key="k")
    assert (mixed.status, mixed.ids[0]) == (0, first.ids[1])
    assert mixed.ids[1] == caller.seen
    assert [name for name, _ in listener.new_payloads()] == [channel("c")]
    assert caller.read_one("b").ids == [first.ids[1]]
    assert caller.publish(("a", LINES), key="other").ids[0] > mixed.ids[1]


def test_keys_are_bounded_and_a_refused_one_changes_nothing(caller: Caller, client: Redis) -> None:
    room = 2 * (1 + 1 + 250)
    kept = [caller.publish(("a", LINES), key=key, max_key_bytes=room) for key in "12"]
    last = caller.seen
    assert caller.publish(("a", LINES), key="3", max_key_bytes=room) == Published(2, [])
    assert caller.publish(("a", LINES), ("b", LINES), key="2", max_key_bytes=room) == Published(2, [])
    assert caller.publish(("a", LINES), key="2", max_key_bytes=room) == Published(1, kept[1].ids)
    assert caller.seen == last
    assert int(client.hget(STATE, "kb") or 0) == room
    assert caller.read_one("b").last is None


def test_keys_expire(caller: Caller, client: Redis) -> None:
    for number in range(30):
        caller.publish(("a", LINES), key=f"{number:02}")
    members = [f"a {number:02}" for number in range(30)]
    assert client.zrange(KEY_AGE, 0, -1) == [member.encode() for member in members]
    client.zadd(KEY_AGE, {member: number for number, member in enumerate(members)})
    assert caller.publish(("a", LINES), key="29").status == 0  # it is present but expired
    assert client.hlen(KEYS) == client.zcard(KEY_AGE) == 10  # each call drops 20, and this one its own key
    assert int(client.hget(STATE, "kb") or 0) == 10 * (1 + 2 + 250)
    client.zadd(KEY_AGE, {"a 29": 1})
    caller.publish(("a", LINES), key="29")
    assert int(client.hget(STATE, "kb") or 0) == 1 + 2 + 250
    client.zadd(KEY_AGE, {"a 29": 1})
    caller.forget()
    assert client.exists(KEYS, KEY_AGE) == 0
    assert client.hget(STATE, "kb") == b"0"


def test_a_key_from_a_clock_far_ahead_counts_as_expired(caller: Caller, client: Redis) -> None:
    first = caller.publish(("a", LINES), key="k").ids
    client.zincrby(KEY_AGE, 200_000, "a k")
    assert caller.publish(("a", LINES), key="k").ids == first
    client.zincrby(KEY_AGE, DAY_MS, "a k")
    assert caller.publish(("a", LINES), key="k").ids != first
    assert int(client.hget(STATE, "kb") or 0) == 1 + 1 + 250


# Retries


def test_a_retry_finds_the_entries_of_its_first_attempt(caller: Caller, listener: ChannelListener) -> None:
    since = caller.publish(("a", LINES)).ids[0]
    items = [("a", b"data: 1\n"), ("b", b"data: 2\n"), ("a", b"data: 3\n")]
    first = caller.publish(*items, nonce="mine")
    for _ in range(40):
        caller.publish(("a", LINES), nonce="not-mine")
    listener.new_payloads()
    assert caller.publish(*items, nonce="mine", retry_since=since) == first
    assert listener.new_payloads() == []
    assert len(caller.read_one("b").ids) == 1


def test_a_retry_publishes_if_its_first_attempt_never_arrived(caller: Caller) -> None:
    caller.read()
    since = caller.seen
    caller.publish(("a", LINES), nonce="xmine")
    tried = caller.publish(("a", LINES), nonce="mine", retry_since=since)
    assert (tried.status, tried.ids) == (0, [caller.seen])
    assert caller.publish(("a", LINES), nonce="mine", retry_since=caller.seen).ids != tried.ids


def test_a_retry_finds_an_attempt_that_was_partly_trimmed(caller: Caller) -> None:
    caller.read()
    since = caller.seen
    items = [("a", LINES)] * 5
    first = caller.publish(*items, nonce="mine", kept=Kept(events=2))
    assert caller.publish(*items, nonce="mine", retry_since=since) == first


def test_a_retry_after_a_delete(caller: Caller) -> None:
    caller.read()
    since = caller.seen
    items = [("a", LINES), ("b", LINES), ("a", LINES), ("a", LINES)]
    first = caller.publish(*items, nonce="mine")
    caller.delete("a")
    assert caller.publish(*items, nonce="mine", retry_since=since) == first


def test_a_retry_with_a_key_is_not_reported_as_a_replay(caller: Caller) -> None:
    caller.read()
    since = caller.seen
    first = caller.publish(("a", LINES), key="k", nonce="mine")
    assert caller.publish(("a", LINES), key="k", nonce="mine", retry_since=since) == first
    mixed = caller.publish(("a", LINES), ("b", LINES), key="k", nonce="next")
    again = caller.publish(("a", LINES), ("b", LINES), key="k", nonce="next", retry_since=since)
    assert again == mixed == Published(0, [*first.ids, mixed.ids[1]])
    assert caller.publish(("a", LINES), ("b", LINES), key="k").status == 1


# A store that went back


def test_another_server_resumes_above_all_seen_ids(caller: Caller, client: Redis) -> None:
    (last,) = caller.publish(("a", LINES)).ids
    epoch = caller.epoch
    caller.run = "promoted"
    caller.seen = last + at(50)  # an id that the promoted server never got
    seen = caller.seen
    now = server_ms(client)
    (event_id,) = caller.publish(("a", LINES)).ids
    assert event_id > seen
    assert event_id > at(now + MARGIN_MS)
    caller.read()
    (rewind,) = caller.rewinds
    assert rewind == (last, seen, event_id - 1)
    assert rewind[2] & 0xFFFF == 0
    assert caller.epoch > epoch
    assert caller.read_one("a").entries[1].prev == last


def test_i2_no_epoch_of_a_lost_server_is_repeated(caller: Caller, client: Redis) -> None:
    """Otherwise an instance that knows the epoch would not ask for the losses: the floor rose, then an older file was loaded."""
    for topic in "abc":
        caller.publish((topic, LINES))
    saved: Any = client.hgetall(STATE)
    caller.forget(max_topics=2)
    caller.forget(max_topics=1)
    epoch = caller.epoch
    client.hset(STATE, mapping=saved)
    caller.run = "restarted"
    caller.read()
    assert caller.epoch > epoch


def test_a_clean_restart_is_recorded_for_later_callers(caller: Caller, client: Redis) -> None:
    (last,) = caller.publish(("a", LINES)).ids
    caller.run = "restarted"
    caller.read()
    resumed = caller.seen
    assert caller.rewinds == [(last, last, resumed)]
    epoch = caller.epoch

    late = Caller(client, "restarted")
    late.seen = last
    late.read()
    assert (late.rewinds, late.epoch) == (caller.rewinds, epoch)
    late.seen = last + 3
    late.read()
    assert (late.rewinds, late.epoch) == ([(last, resumed, resumed + 1)], epoch + 1)
    for seen in (last + 2, last + 4):
        late.seen = seen
        late.read()
        assert (late.rewinds, late.epoch) == ([(last, resumed, resumed + 1)], epoch + 1)


def test_i2_a_loss_that_is_learned_late_moves_to_the_present(caller: Caller, client: Redis) -> None:
    """Subscribers that crossed the id where ids resumed must get a gap all the same, once."""
    (last,) = caller.publish(("a", LINES)).ids
    caller.run = "restarted"
    (since,) = caller.publish(("a", LINES)).ids
    late = Caller(client, "restarted")
    late.seen = last + 3
    late.read()
    (rewind,) = late.rewinds
    assert rewind == (last, since, late.seen)
    assert late.seen > since
    for seen in (last + 5, since, since - 1, late.seen):
        other = Caller(client, "restarted")
        other.seen = seen
        other.read()
        assert (other.rewinds, other.epoch) == ([rewind], late.epoch)
    (after,) = caller.publish(("a", LINES)).ids
    assert after > late.seen
    assert caller.read_one("a").entries[-1].prev == since


def test_the_same_server_with_less_data(caller: Caller, client: Redis) -> None:
    (last,) = caller.publish(("a", LINES)).ids
    caller.seen = last + 1
    caller.read()
    assert caller.rewinds == [(last, last + 1, caller.seen)]
    assert ms_of(caller.seen) >= ms_of(last) + MARGIN_MS


def test_a_server_with_a_slow_clock_resumes_above_all_seen_ids(caller: Caller, client: Redis) -> None:
    caller.read()
    ahead = server_ms(client) + DAY_MS
    client.hset(STATE, mapping={"ms": ahead, "n": 3})
    caller.run, caller.seen = "promoted", at(ahead + 5)
    caller.read()
    assert at(ahead + 5 + MARGIN_MS) <= caller.seen < at(ahead + 5 + 2 * MARGIN_MS)


def test_a_store_that_goes_back_twice_repeats_no_id(caller: Caller, client: Redis) -> None:
    """A server crashes repeatedly and loses its last writes each time, the record of the rewind included."""
    caller.publish(("a", LINES))
    other = Caller(client, "first")
    (first,) = other.publish(("a", LINES)).ids
    before = client.dump(STATE)
    assert before
    lost = []
    for run in ("second", "third", "fourth"):
        wait_for_tick(client)
        client.restore(STATE, 0, before, replace=True)
        client.delete(log_key("a"), rec_key("a"))
        late = Caller(client, run)
        late.seen = first
        lost += late.publish(("a", LINES)).ids
    assert lost == sorted(set(lost))


@pytest.mark.parametrize("margin_ms", [0, 1, MARGIN_MS])
@pytest.mark.parametrize("ahead_ms", [0, DAY_MS])
def test_ids_increase_however_small_the_margin(
    caller: Caller, client: Redis, margin_ms: int, ahead_ms: int
) -> None:
    caller.margin_ms = margin_ms
    caller.read()
    client.hincrby(STATE, "ms", ahead_ms)
    ids = caller.publish(("a", LINES)).ids
    for number in range(5):
        caller.run = f"run {number}"
        ids += caller.publish(("a", LINES)).ids
    assert ids == sorted(set(ids))


def test_a_suspect_server_counts_as_one_that_lost_events(caller: Caller, client: Redis) -> None:
    """No caller has seen a lost event."""
    (last,) = caller.publish(("a", LINES)).ids
    client.hset(STATE, "suspect", 1)
    caller.read()
    resumed = caller.seen
    assert ms_of(resumed) >= ms_of(last) + MARGIN_MS
    assert caller.rewinds == [(last, resumed, resumed)]
    epoch = caller.epoch
    for seen in (0, last + 3):
        late = Caller(client, caller.run)
        late.seen = seen
        late.read()
        assert (late.rewinds, late.epoch) == (caller.rewinds, epoch)


def test_a_suspect_server_without_a_state_is_born_above_all_lost_ids(caller: Caller, client: Redis) -> None:
    client.hset(STATE, "suspect", 1)
    before = server_ms(client)
    caller.read()
    assert ms_of(caller.born) >= before + MARGIN_MS
    assert caller.rewinds == []
    epoch = caller.epoch
    caller.read()
    assert caller.epoch == epoch


def test_a_caller_from_before_the_last_but_one_rewind(caller: Caller, client: Redis) -> None:
    (last,) = caller.publish(("a", LINES)).ids
    caller.run = "second"
    (between,) = caller.publish(("a", LINES)).ids
    late = Caller(client, "third")
    late.seen = last + 9
    late.read()
    resumed = late.rewinds[0][2]
    assert late.rewinds == [(between, between, resumed), (last, resumed, resumed + 1)]


def test_an_emptied_store_is_born_above_all_seen_ids(caller: Caller, client: Redis) -> None:
    (last,) = caller.publish(("a", LINES)).ids
    epoch = caller.epoch
    client.flushall()
    (event_id,) = caller.publish(("a", LINES)).ids
    caller.read()
    assert ms_of(caller.born) >= ms_of(last) + MARGIN_MS
    assert event_id > caller.born > last
    assert caller.epoch != epoch
    assert caller.rewinds == []


def test_a_removed_rewind_moves_the_birth_of_the_store(caller: Caller) -> None:
    caller.read()
    born = caller.born
    for number in range(64):
        caller.run = f"run {number}"
        caller.read()
    assert len(caller.rewinds) == 64
    assert caller.born == born
    oldest = caller.rewinds[0]
    caller.run = "one more"
    caller.read()
    assert len(caller.rewinds) == 64
    assert caller.born == oldest[2]


@pytest.mark.parametrize("lost", [0, 3])
def test_a_new_rewind_removes_old_ones(caller: Caller, client: Redis, lost: int) -> None:
    caller.read()
    born = caller.born
    client.hset(STATE, mapping={"rewinds": f"1000-0 1000-{lost} 11000-0"})
    client.hset(STATE, mapping={"born": "5-0"})
    caller.read()
    assert len(caller.rewinds) == 1
    caller.run = "another"
    caller.read()
    assert [rewind[0] for rewind in caller.rewinds] == [born]
    assert format_id(caller.born) == ("11000-0" if lost else "5-0")


steps = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 12)), max_size=12)


@given(steps=steps)
@example(  # the store loses its last event twice, and an instance that has seen neither comes between
    [(1, True, 0), (0, False, 1), (0, True, 0), (0, True, 0), (0, False, 1), (1, True, 0)]
)
@few
def test_every_cursor_that_missed_something_gets_a_gap(
    client: Redis, steps: list[tuple[int, bool, int]]
) -> None:
    """Three instances; sometimes the server loses its last events, or is only replaced.

    Compares the rule for subscribers (design §2) with the real losses, for every cursor ever given out.
    """
    client.flushall()
    run = 0
    callers = [Caller(client, "0") for _ in range(3)]
    lost: list[EventId] = []
    kept: list[EventId] = []
    for index, goes_on, count in steps:
        wait_for_tick(client)
        if goes_on:
            callers[index].run = str(run)
            kept += callers[index].publish(*[("a", LINES)] * (count + 1)).ids
            continue
        run += 1
        gone = kept[len(kept) - min(count, len(kept)) :]
        lost, kept = lost + gone, kept[: len(kept) - len(gone)]
        for event_id in gone:
            client.xdel(log_key("a"), format_id(event_id))
        last = kept[-1] if kept else callers[0].born
        if gone:
            ms, n = format_id(last).split("-") if kept else client.hget(STATE, "born").decode().split("-")  # type: ignore[union-attr]
            client.hset(STATE, mapping={"ms": ms, "n": n})
            client.hset(rec_key("a"), mapping={"ms": ms, "n": n})
        for caller in callers:
            caller.run = str(run)
    for caller in callers:
        caller.run = str(run)
        caller.read()
    newest = callers[0]
    newest.publish(("a", LINES))
    newest.read()
    assert newest.seen > max([*lost, *kept, 0])
    for cursor in [*lost, *kept]:
        missed = [event_id for event_id in lost if event_id > cursor] or cursor in lost
        told = any(
            low < cursor < resumed or (cursor <= low and seen > low) for low, seen, resumed in newest.rewinds
        )
        assert told or not missed


# Forget


def test_unused_topics_are_forgotten(caller: Caller, client: Redis) -> None:
    caller.publish(("a", LINES), ("b", LINES), ("c", LINES))
    epoch = caller.epoch
    for topic in "ab":
        age(client, topic, 7 * DAY_MS + 3000)
    age(client, "c", 7 * DAY_MS)
    assert caller.forget(most=1) == 1
    assert caller.forget(most=100) == 1
    assert caller.forget() == 0
    assert client.zrange(NAMES, 0, -1) == client.zrange(USED, 0, -1) == [b"c"]
    left = {STATE, NAMES, USED, log_key("c"), rec_key("c")}
    assert set(client.scan_iter()) == {name.encode() for name in left}
    caller.read()
    assert (caller.floor, caller.epoch) == (caller.born, epoch)


def test_surplus_topics_are_forgotten_and_raise_the_floor(caller: Caller, client: Redis) -> None:
    ids = {topic: caller.publish((topic, LINES)).ids[0] for topic in "abcd"}
    epoch = caller.epoch
    for number, topic in enumerate("abcd"):
        client.zincrby(USED, number - 10, topic)
    assert caller.forget(max_topics=2) == 2
    caller.read()
    assert (caller.floor, caller.epoch) == (ids["b"], epoch + 1)
    assert client.zrange(NAMES, 0, -1) == [b"c", b"d"]
    caller.publish(("a", LINES))
    assert caller.read_one("a").entries[0].prev >= ids["b"]
    assert caller.forget(max_topics=3) == 0
    assert caller.epoch == epoch + 1


def test_reading_writes_nothing(caller: Caller, client: Redis) -> None:
    caller.publish(("a", LINES), key="k")
    client.config_set("min-replicas-to-write", 1)  # so that every write is refused
    with pytest.raises(ResponseError, match="NOREPLICAS"):
        caller.publish(("a", LINES))
    assert caller.forget() == 0
    assert len(caller.read_one("a").ids) == 1
    assert caller.describe("a")[0].events == 1


def test_the_longest_window_of_keys_holds_for_all(caller: Caller, client: Redis) -> None:
    """Instances with windows that differ by more than twice publish nothing twice, whichever gets the key first."""
    short, long = 1000, 300_000
    first = caller.publish(("a", LINES), key="1", key_ms=long)
    assert caller.publish(("a", LINES), key="1", key_ms=short) == replace(first, status=1)
    second = caller.publish(("a", LINES), key="2", key_ms=short)
    assert (client.zscore(KEY_AGE, "a 2") or 0) > server_ms(client) + 200_000
    assert caller.publish(("a", LINES), key="2", key_ms=long) == replace(second, status=1)


def test_a_window_holds_from_an_instances_first_sweep_until_no_instance_sets_it(
    caller: Caller, client: Redis
) -> None:
    caller.forget(key_ms=300_000)
    caller.publish(("a", LINES), key="1", key_ms=1000)
    assert (client.zscore(KEY_AGE, "a 1") or 0) > server_ms(client) + 200_000
    for named_ms_ago, window in ((300_000, 300_000), (361_000, 1000)):
        client.hset(STATE, "windowed", server_ms(client) - named_ms_ago)
        caller.forget(key_ms=1000)
        assert int(client.hget(STATE, "window") or 0) == window


# Full memory


def test_a_publish_fails_as_a_whole_if_memory_is_full(
    caller: Caller, client: Redis, listener: ChannelListener
) -> None:
    caller.publish(("a", LINES), key="old")
    (state, log) = client.hgetall(STATE), client.xrange(log_key("a"))
    client.zadd(KEY_AGE, {"a old": 1})
    listener.new_payloads()
    client.config_set("maxmemory", 1)
    for options in ({}, {"key": "k"}, {"nonce": "mine", "retry_since": 0}):
        with pytest.raises(OutOfMemoryError):
            caller.publish(("a", LINES), ("b", LINES), **options)
    assert (client.hgetall(STATE), client.xrange(log_key("a"))) == (state, log)
    assert client.keys(log_key("b")) == []
    assert listener.new_payloads() == []


def test_all_other_scripts_work_if_memory_is_full(caller: Caller, client: Redis) -> None:
    ids = caller.publish(("a", LINES), ("b", LINES)).ids
    age(client, "b", 8 * DAY_MS)
    client.config_set("maxmemory", 1)
    caller.run = "restarted"
    assert caller.read_one("a").ids == ids[:1]
    assert caller.forget() == 1
    assert caller.describe("a")[0].events == 1
    assert caller.lease("a", 1000)
    assert caller.close("a", "cancelled") is not None
    assert caller.publish(ends=["b"]).closed
    assert caller.delete("a") is not None
    assert caller.describe("a")[0].events == 0


# Whole servers


def test_a_user_needs_only_the_scripts_commands(start_server: StartServer) -> None:
    texts = "".join(script.text for script in ALL_SCRIPTS)
    commands = {name.lower() for name in re.findall(r"\bcall\(\s*'([A-Z]+)'", texts)}
    allowed = " ".join(f"+{name}" for name in sorted({"info", "eval", *commands}))
    server = start_server(
        f"user broker on >secret resetkeys ~broker:* resetchannels &broker:* -@all {allowed}"
    )
    with server.client(username="broker", password="secret") as client:
        caller = Caller(client)
        caller.publish(*[("a", b"data: " + b"x" * 100 + b"\n")] * 5, key="", kept=Kept(events=4, bytes=300))
        caller.publish(("a", LINES), nonce="mine", retry_since=0)
        caller.publish(("b", LINES), key="k")
        caller.run = "other"
        assert caller.read_one("a", probe="broker:0:_probe:1").entries
        assert caller.describe("a")[0].events
        assert caller.delete("a")
        assert caller.forget(max_topics=1) == 1
    assert commands == {
        *("time", "hget", "hmget", "hset", "hdel", "hincrby", "del", "pexpireat", "publish"),
        *("xadd", "xlen", "xrange", "xrevrange", "xtrim"),
        *("zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zscore"),
    }


def test_a_server_restarted_from_an_older_file(start_server: StartServer) -> None:
    server = start_server()
    with server.client() as client:
        caller = Caller(client)
        (kept,) = caller.publish(("a", LINES)).ids
        client.save()
        (lost,) = caller.publish(("a", LINES)).ids
    server.kill()
    server.start()
    with server.client() as client:
        again = Caller(client)
        again.seen = lost
        (event_id,) = again.publish(("a", LINES)).ids
        read = again.read_one("a")
        assert read.ids == [kept, event_id]
        assert again.rewinds == [(kept, lost, event_id - 1)]


def test_a_replica_has_what_the_scripts_wrote(start_server: StartServer) -> None:
    source = start_server(tcp=True)
    replica = start_server(tcp=True, replica_of=source)
    replica.wait_synced()
    with source.client() as client, replica.client() as copy:
        caller = Caller(client)
        ids = caller.publish(("a", LINES), ("b", LINES), key="k").ids
        assert client.wait(1, 10_000) == 1
        copy.replicaof("NO", "ONE")
        promoted = Caller(copy)
        promoted.seen = caller.seen
        (again,) = promoted.publish(("a", LINES), key="k").ids
        assert again == ids[0]
        assert promoted.rewinds == []
        assert promoted.read_one("b").ids == ids[1:]
        assert [rewind[:2] for rewind in promoted.rewinds] == [(ids[1], ids[1])]
