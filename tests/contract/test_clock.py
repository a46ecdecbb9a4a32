"""A clock that is wrong for a while, ahead or behind, on every store: ids go on, and once it is right, so are all times."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest

from broker import sse
from broker.events import EventId
from broker.log.start import After, Latest, Since, Start, position
from broker.log.timeline import MAX_CORRECTIONS
from tests.contract.conftest import item
from tests.support.store_harness import StoreHarness

YEARS = 10 * 365 * 86_400
KEPT = 60
"""The retention of these stores, in seconds."""


async def publish(harness: StoreHarness, *data: str, topic: str = "a") -> list[EventId]:
    return list((await harness.store.topics.publish([item(topic, text) for text in data])).ids)


async def replayed(harness: StoreHarness, start: Start, topic: str = "a") -> list[dict[str, str]]:
    """The envelopes that a new subscriber gets at once."""
    logs = await harness.store.logs.watch([topic], start)
    await harness.settle()
    where = position(start, [topic], logs, harness.store.logs)
    harness.store.logs.trim(topic)
    entries = [entry for entry in logs[0].after(where.cursor) if entry.frame and not entry.end]
    envelopes = [json.loads(sse.split(logs[0].enveloped(topic, entry)).data) for entry in entries]
    harness.store.logs.unwatch([topic])
    return envelopes


async def data(harness: StoreHarness, start: Start, topic: str = "a") -> list[str]:
    return [envelope["data"] for envelope in await replayed(harness, start, topic)]


async def ages(harness: StoreHarness, topic: str = "a") -> dict[str, float]:
    """How old each event is, by its envelope, in seconds."""
    return {
        envelope["data"]: harness.now - datetime.fromisoformat(envelope["time"]).timestamp()
        for envelope in await replayed(harness, Since(0), topic)
    }


async def wrong_for_a_while(harness: StoreHarness, seconds: float = YEARS) -> None:
    """The clock is `seconds` ahead, or behind if that is negative; then it is right again. Meanwhile `wrong` is published."""
    harness.advance(seconds)
    await publish(harness, "wrong")
    harness.advance(-seconds)


@pytest.mark.parametrize("seconds", [YEARS, 7200, -YEARS, -7200])
async def test_ids_go_on_and_times_are_right(store: StoreHarness, seconds: float) -> None:
    ids = await publish(store, "before")
    await wrong_for_a_while(store, seconds)
    ids += await publish(store, "now")
    store.advance(20)
    ids += await publish(store, "later")
    assert ids == sorted(set(ids))
    assert store.store.logs.last_id == ids[-1]
    found = await ages(store)
    assert found["later"] == pytest.approx(0, abs=5)
    assert found["now"] == pytest.approx(20, abs=5)
    assert found["wrong"] == pytest.approx(20, abs=5), "it can't be younger"


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
async def test_events_expire_by_their_own_age(store: StoreHarness, seconds: float) -> None:
    store.advance(seconds)
    await publish(store, "wrong")
    store.advance(-seconds)
    await publish(store, "now")
    store.advance(KEPT / 2)
    await publish(store, "later")
    assert await data(store, Since(0)) == ["wrong", "now", "later"]
    store.advance(KEPT / 2 + 5)
    assert await data(store, Since(0)) == ["later"]
    (state,) = await store.store.topics.describe(["a"])
    assert state.events == 1
    store.advance(KEPT)
    (state,) = await store.store.topics.describe(["a"])
    assert state.events == 0


async def test_events_of_other_topics_from_before_keep_their_age(store: StoreHarness) -> None:
    await publish(store, "before", topic="b")
    await wrong_for_a_while(store)
    await publish(store, "now")
    assert await data(store, Since(0), "b") == ["before"]
    assert (await ages(store, "b"))["before"] == pytest.approx(0, abs=5)
    store.advance(KEPT + 5)
    assert await data(store, Since(0), "b") == []


async def test_nothing_has_to_be_published_for_old_events_to_go(store: StoreHarness) -> None:
    await wrong_for_a_while(store)
    await store.sweep()
    store.advance(KEPT + 5)
    await store.sweep()
    (state,) = await store.store.topics.describe(["a"])
    assert state.events == 0
    assert state.last_id is not None


async def test_since_is_a_time_of_the_right_clock(store: StoreHarness) -> None:
    await wrong_for_a_while(store)
    await publish(store, "now")
    store.advance(20)
    await publish(store, "later")
    store.advance(10)
    assert await data(store, Since(store.now - 20)) == ["later"]
    assert await data(store, Since(store.now - 50)) == ["wrong", "now", "later"]
    assert await data(store, Since(store.now + 5)) == []


async def test_a_clock_that_was_behind_takes_nothing_with_it(store: StoreHarness) -> None:
    """As after a start without a battery-backed clock: 1970, until the time server answers."""
    ids = await publish(store, "before")
    store.advance(-YEARS)
    ids += await publish(store, "wrong")
    ids += await publish(store, "first", topic="b")
    await store.sweep()
    store.advance(YEARS + 1)
    await store.sweep()
    ids += await publish(store, "now")
    assert ids == sorted(set(ids))
    assert await data(store, Since(0)) == ["before", "wrong", "now"]
    assert await data(store, Since(0), "b") == ["first"]
    assert all(age == pytest.approx(1, abs=5) for age in (await ages(store)).values())
    (log,) = await store.store.logs.watch(["b"], After(ids[0], ""))
    assert not log.has_gap(ids[0])


@pytest.mark.parametrize("seconds", [YEARS, 3000])
@pytest.mark.parametrize("is_published", [True, False])
async def test_i2_what_the_wrong_clock_forgot_is_a_gap(
    store: StoreHarness, seconds: float, is_published: bool
) -> None:
    """It forgets topics that the right clock would remember."""
    (cursor,) = await publish(store, "x", topic="b")
    await publish(store, "forgotten")
    await store.sweep()
    store.advance(1000)
    await store.sweep()
    store.advance(seconds)
    if is_published:
        await publish(store, "x", topic="b")
    await store.sweep()
    assert "a" not in await store.store.topics.names("", 10)
    store.advance(-seconds)
    await publish(store, "new")
    (log,) = await store.store.logs.watch(["a"], After(cursor, ""))
    assert log.has_gap(cursor)


async def test_no_gap_is_silent_after_the_record_of_a_topic_is_forgotten(store: StoreHarness) -> None:
    """I2."""
    before = (await publish(store, "x", topic="b"))[0]
    await wrong_for_a_while(store)
    await store.sweep()
    for _ in range(3):
        store.advance(1000)
        await publish(store, "x", topic="b")
        await store.sweep()
    assert await store.store.topics.names("", 10) == ["a", "b"]
    for _ in range(8):
        store.advance(1000)
        await store.sweep()
    assert await store.store.topics.names("", 10) == [], (
        "topics that the wrong clock used are forgotten in time"
    )
    await publish(store, "new")
    (log,) = await store.store.logs.watch(["a"], After(before, ""))
    assert log.has_gap(before)


async def test_leases_of_the_wrong_clock_expire_in_time(store: StoreHarness) -> None:
    """In time: within ten minutes, which a shared store gives producers to renew their leases."""

    async def closed() -> list[bool]:
        await store.sweep()
        return [state.closed for state in await store.store.topics.describe(["a", "b"])]

    store.advance(YEARS)
    for topic in ("a", "b"):
        await publish(store, "1", topic=topic)
        await store.store.topics.lease(topic, 30)
    await store.sweep()
    store.advance(-YEARS)
    await store.sweep()
    for _ in range(7):
        store.advance(100)
        await store.store.topics.lease("b", 150)
        assert not (await closed())[1]
    assert await closed() == [True, False]
    store.advance(160)
    assert await closed() == [True, True]


@pytest.mark.parametrize("seconds", [YEARS, -YEARS])
async def test_no_topic_is_abandoned_because_the_clock_leaps(store: StoreHarness, seconds: float) -> None:
    async def renew() -> None:
        await store.store.topics.lease("a", 30)

    await publish(store, "1")
    await store.sweep()
    await renew()
    for leap in (seconds, -seconds):
        store.advance(leap)
        await store.sweep()
        store.advance(10)
        await renew()
        await store.sweep()
    store.advance(20)
    await store.sweep()
    (state,) = await store.store.topics.describe(["a"])
    assert not state.closed
    store.advance(650)
    await store.sweep()
    (state,) = await store.store.topics.describe(["a"])
    assert state.closed, "the last lease was not renewed"


async def test_keys_of_the_wrong_clock_count_once_and_are_forgotten_in_time(store: StoreHarness) -> None:
    store.advance(YEARS)
    first = await store.store.topics.publish([item("a", "1")], "key")
    store.advance(-YEARS)
    await publish(store, "now", topic="b")
    again = await store.store.topics.publish([item("a", "1")], "key")
    assert (again.replayed, list(again.ids)) == (True, list(first.ids))
    store.advance(310)
    assert not (await store.store.topics.publish([item("a", "1")], "key")).replayed


async def test_keys_of_the_wrong_clock_leave_their_room_in_time(store: StoreHarness) -> None:
    store.advance(YEARS)
    long_key = "k" * 200
    for number in range(20):
        await store.store.topics.publish([item("a", "1")], f"{long_key}{number}")
    store.advance(-YEARS)
    await store.sweep()
    store.advance(310)
    await store.sweep()
    for number in range(20):
        await store.store.topics.publish([item("a", "1")], f"{long_key}{number}")


async def test_it_is_warned_of_once(store: StoreHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "broker")
    await store.store.logs.watch(["a"], Latest())
    await wrong_for_a_while(store)
    await publish(store, "now")
    await publish(store, "now")
    await store.settle()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the clock was ahead" in warning
    assert "87600.0 hours" in warning


async def test_a_step_of_less_than_an_hour_corrects_nothing(store: StoreHarness) -> None:
    await wrong_for_a_while(store, 3000)
    await publish(store, "now")
    await store.settle()
    assert store.store.logs.timeline.corrections == ()


async def test_a_clock_that_is_wrong_again_and_again(store: StoreHarness) -> None:
    ids: list[EventId] = []
    for number in range(MAX_CORRECTIONS + 3):
        store.advance(YEARS)
        ids += await publish(store, f"wrong {number}")
        store.advance(-YEARS)
        ids += await publish(store, f"right {number}")
        store.advance(3)
    assert ids == sorted(set(ids))
    await store.store.logs.watch(["a"], Latest())
    await store.settle()
    assert 1 <= len(store.store.logs.timeline.corrections) <= MAX_CORRECTIONS
    found = await ages(store)
    assert found[f"right {number}"] == pytest.approx(3, abs=5)
    assert all(-5 < age < 60 for age in found.values())


async def test_envelopes_made_by_the_wrong_clock_are_made_again(store: StoreHarness) -> None:
    (log,) = await store.store.logs.watch(["a"], Latest())
    store.advance(YEARS)
    await publish(store, "wrong")
    await store.settle()
    (entry,) = [entry for entry in log.after(0) if entry.frame]
    before = log.enveloped("a", entry)
    store.advance(-YEARS)
    await publish(store, "now", topic="b")
    assert (await ages(store))["wrong"] == pytest.approx(0, abs=5)
    assert log.enveloped("a", entry) != before
