"""The scripts that close topics: their changes, replies and payloads."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from broker.events import EventId, format_id
from tests.stores.scripts_caller import (
    DAY_MS,
    LEASES,
    NAMES,
    SCRIPTS,
    STATE,
    USED,
    Caller,
    Kept,
    age,
    log_key,
    rec_key,
)
from tests.stores.test_scripts import LINES, ChannelListener, caller, client, listener
from tests.support.waiting import wait_for

__all__ = ["caller", "client", "listener"]

CLOSED, OUT_OF_ORDER = 3, 4


def end_of(caller: Caller, topic: str) -> str:
    return caller.read_one(topic).end


def test_each_script_about_ends_has_its_own_sha(client: Redis) -> None:
    for script in (SCRIPTS.close, SCRIPTS.lease, SCRIPTS.due):
        assert client.script_load(script.text) == script.sha


def test_ends_follow_all_entries_in_ids_and_payloads(caller: Caller, listener: ChannelListener) -> None:
    done = caller.publish(("a", LINES), ("b", LINES), ("a", LINES), ends=["b", "a"], reason="failed")
    first, second, third = done.ids
    assert done.closed
    assert caller.seen == third + 2
    ends = {"b": (third + 1, second), "a": (third + 2, third)}
    for topic, (end, prev) in ends.items():
        assert end_of(caller, topic) == f"{format_id(end)} {format_id(prev)} failed"
        assert caller.read_one(topic).last == end
    payloads = [
        (channel, payload.split(b"\n")[0].split(b" ")) for channel, payload in listener.new_payloads()
    ]
    assert [(channel, words[0]) for channel, words in payloads] == [
        ("broker:0:a", b"E"),
        ("broker:0:b", b"E"),
        ("broker:0:b", b"C"),
        ("broker:0:a", b"C"),
    ]
    *_, last = payloads
    assert last[1][2:] == [format_id(third).encode(), format_id(third + 2).encode(), b"failed"]
    assert caller.read_one("a").ids == [first, third], "the end is not an entry"


def test_nothing_is_published_if_one_topic_is_closed(caller: Caller, listener: ChannelListener) -> None:
    caller.publish(("b", LINES), ends=["b"])
    before = caller.seen
    listener.new_payloads()
    refused = caller.publish(("a", LINES), ("b", LINES), ("c", LINES), ends=["c"])
    assert (refused.status, refused.ids, refused.closed) == (CLOSED, [2], False)
    assert (caller.publish(("b", LINES), key="k").status, caller.seen) == (CLOSED, before)
    assert listener.new_payloads() == []
    assert [caller.read_one(topic).last for topic in ("a", "c")] == [None, None]


def test_a_retry_finds_its_own_end(caller: Caller, listener: ChannelListener) -> None:
    since = caller.seen
    first = caller.publish(("a", LINES), ("b", LINES), nonce="mine", ends=["a", "b"])
    listener.new_payloads()
    assert (
        caller.publish(("a", LINES), ("b", LINES), nonce="mine", ends=["a", "b"], retry_since=since) == first
    )
    assert listener.new_payloads() == []
    keyed = caller.publish(("c", LINES), key="k", nonce="keyed", ends=["c"])
    assert caller.publish(("c", LINES), key="k", nonce="keyed", ends=["c"], retry_since=since) == keyed


def test_a_retry_of_an_end_alone_gets_its_id(caller: Caller, listener: ChannelListener) -> None:
    since = caller.seen
    first = caller.publish(nonce="mine", ends=["a"])
    assert caller.publish(nonce="mine", ends=["a"], retry_since=since) == first
    assert len(listener.new_payloads()) == 1


def test_a_retry_returns_the_known_count_of_its_first_attempt(caller: Caller) -> None:
    items = [("a", LINES)] * 3
    caller.publish(*items, producer=("p", 1))
    since = caller.seen
    first = caller.publish(*items, nonce="mine", producer=("p", 2))
    assert (first.known, len(first.ids)) == (2, 1)
    assert caller.publish(*items, nonce="mine", producer=("p", 2), retry_since=since) == first
    assert len(caller.read_one("a").entries) == 4


def test_the_end_outlives_the_log_but_not_the_record(caller: Caller, client: Redis) -> None:
    (first,) = caller.publish(("a", LINES), kept=Kept(ms=1000), ends=["a"]).ids
    assert client.pttl(log_key("a")) <= 1000 + 2 * 2000
    assert client.pttl(rec_key("a")) > 6 * DAY_MS
    client.delete(log_key("a"))
    answer = caller.read_one("a")
    assert (answer.ids, answer.last) == ([], first + 1)
    assert answer.end
    assert caller.publish(("a", LINES)).status == CLOSED


def test_an_unknown_topic_can_be_closed(caller: Caller, client: Redis) -> None:
    client.hset(rec_key("a"), mapping={"ms": 1 << 50, "n": 0, "cb": "9-9"})  # left from a lost store
    client.xadd(log_key("a"), {"p": "0-0 x", "z": 1, "l": b"old"})
    (end,) = caller.publish(ends=["a"]).ids
    assert end_of(caller, "a") == f"{format_id(end)} {format_id(caller.born)} closed"
    assert client.exists(log_key("a")) == 0
    assert client.hget(rec_key("a"), "cb") is None
    assert client.zscore(NAMES, "a") == 0
    assert client.zscore(USED, "a") is not None
    caller.delete("a")
    assert caller.publish(("a", LINES)).status == 0
    assert caller.describe("a")[0].events == 1


def test_delete_of_an_ended_topic_hides_no_event_that_was_seen(caller: Caller) -> None:
    (event,) = caller.publish(("a", LINES), ends=["a"]).ids
    deleted = caller.delete("a")
    answer = caller.read_one("a")
    assert (answer.cleared_at, answer.cleared_after, answer.end) == (deleted, event, "")
    caller.publish(ends=["a"])
    again = caller.delete("a")
    answer = caller.read_one("a")
    assert (answer.cleared_at, answer.cleared_after) == (again, event), "no event came between"


def test_close(caller: Caller, listener: ChannelListener) -> None:
    assert caller.close("a", "abandoned", if_last=5) is None
    (event,) = caller.publish(("a", LINES)).ids
    assert caller.close("a", "abandoned", if_last=event - 1) is None
    listener.new_payloads()
    end = caller.close("a", "abandoned", if_last=event)
    assert end == caller.seen > event
    assert listener.new_payloads() == [
        ("broker:0:a", f"C {caller.epoch} {format_id(event)} {format_id(end)} abandoned".encode())
    ]
    assert caller.close("a") == end
    assert caller.describe("a")[0].closed
    assert listener.new_payloads() == []


def test_a_renewed_lease_does_not_expire(caller: Caller, client: Redis) -> None:
    assert caller.close("a", "abandoned", if_due=True) is None, "it has no lease"
    assert caller.lease("a", 60_000)
    assert caller.lease("a", 1)
    assert caller.close("a", "abandoned", if_due=True) is None, "the longest lease counts"
    assert caller.lease("b", 1)
    wait_for(lambda: caller.due() == ["b"], "its time is over")
    caller.lease("b", 60_000)
    assert caller.close("b", "abandoned", if_due=True) is None, "it was renewed meanwhile"
    caller.lease("b", None)
    caller.lease("c", 1)
    wait_for(lambda: caller.due() == ["c"], "its time is over")
    assert caller.close("c", "abandoned", if_due=True)
    assert client.zrange(LEASES, 0, -1) == [b"a"]


def test_leases_are_bounded_and_a_closed_topic_gets_none(caller: Caller, client: Redis) -> None:
    assert [caller.lease(topic, 60_000, most=2) for topic in ("a", "b", "c", "a")] == [
        True,
        True,
        False,
        True,
    ]
    caller.publish(ends=["a"])
    caller.delete("b")
    assert client.zcard(LEASES) == 0
    assert caller.lease("a", 60_000)
    assert client.zcard(LEASES) == 0


def test_the_first_publish_decides_what_its_topic_keeps(caller: Caller, listener: ChannelListener) -> None:
    asked = "7200000 3 100000"
    caller.publish(("a", LINES), retention=asked)
    caller.publish(("a", LINES), retention="1 1 1")
    caller.publish(*[("a", LINES)] * 3, kept=Kept(events=1, bytes=1, ms=1))
    assert caller.read_one("a", max_age_ms=1).retention == asked
    assert len(caller.read_one("a", max_age_ms=1).entries) == 3
    assert caller.describe("a", max_age_ms=1)[0].events == 3
    words = [payload.split(b" ")[:5] for _, payload in listener.new_payloads()]
    assert [one[0] for one in words] == [b"F"] * 3
    assert words[0][2:] == asked.encode().split()
    caller.delete("a")
    caller.publish(("a", LINES))
    assert caller.read_one("a").retention == ""


def test_a_later_publish_does_not_change_the_retention(caller: Caller) -> None:
    caller.publish(("a", LINES))
    caller.publish(("a", LINES), retention="7200000 3 100000")
    assert caller.read_one("a").retention == ""


def test_producers_are_bounded_and_go_with_a_delete(caller: Caller, client: Redis) -> None:
    for number in range(20):
        assert caller.publish(("a", LINES), producer=(f"p{number}", 1)).status == 0
    kept: Any = client.hget(rec_key("a"), "p")
    assert kept.decode().split(";") == [f"p{number} 2" for number in range(4, 20)]
    hole = caller.publish(("a", LINES), producer=("p0", 2))
    assert (hole.status, hole.ids) == (OUT_OF_ORDER, [1])
    caller.delete("a")
    assert client.hget(rec_key("a"), "p") is None


def test_the_highest_sequence_numbers(caller: Caller, client: Redis) -> None:
    client.hset(rec_key("a"), "x", "")
    caller.publish(("a", LINES))
    highest = 10**15 - 1
    client.hset(rec_key("a"), "p", f"p {highest}")
    assert caller.publish(("a", LINES), producer=("p", highest)).known == 0
    assert client.hget(rec_key("a"), "p") == b"p %d" % (highest + 1)


def test_an_end_goes_with_its_forgotten_record(caller: Caller, client: Redis) -> None:
    ended: list[EventId] = []
    for topic in ("a", "b"):
        caller.publish(("a" if topic == "a" else "b", LINES), ends=[topic])
        ended.append(caller.seen)
    age(client, "a", 8 * DAY_MS)
    assert caller.forget() == 1
    assert caller.publish(("a", LINES)).status == 0
    assert caller.forget(max_topics=0) == 2
    assert end_of(caller, "b") == ""
    assert caller.floor >= ended[1], "an earlier cursor gets a gap"


def test_a_full_server_refuses_an_event_with_an_end_as_a_whole(caller: Caller, client: Redis) -> None:
    """An end alone is taken (`test_all_other_scripts_work_if_memory_is_full`)."""
    caller.publish(("a", LINES))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            caller.publish(("a", LINES), ends=["a"])
    finally:
        client.config_set("maxmemory", 0)
    assert end_of(caller, "a") == ""
    assert int(client.hget(STATE, "n") or 0) == caller.seen & ((1 << 64) - 1)
