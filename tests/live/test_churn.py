"""Order and completeness for subscribers that reconnect by cursor, whatever happens to the topics meanwhile (I1, I2).

`TEST_SCALE=0.1 pytest tests/live/test_churn.py` is a tenth of the crowd.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import combinations

import pytest

from broker.events import EventId
from tests.live.churn import Follower, Note, Published, all_of, judge, number
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.event_stream import Stream
from tests.support.http import JSON, NDJSON, exchange, request
from tests.support.publisher import AsyncPublisher
from tests.support.scale import SCALE, scaled
from tests.support.waiting import WAIT_SECONDS, wait_for

FOLLOWERS = scaled(500)
EVENTS = max(200, int(500 * SCALE))
"""Published in each run; fewer would perhaps delete no topic."""
TOPICS = ["a", "b", "c.d", "e"]
SETS = [list(some) for count in range(1, len(TOPICS) + 1) for some in combinations(TOPICS, count)]


def followers(port: int, sets: Sequence[Sequence[str]], chance: random.Random) -> list[Follower]:
    return [
        Follower(
            port,
            chance.choice(sets),
            random.Random(chance.random()),
            enveloped=chance.random() < 0.4,
        )
        for _ in range(FOLLOWERS)
    ]


async def churn(
    broker: BrokerProcess,
    crowd: Sequence[Follower],
    chance: random.Random,
    *,
    events: int,
    topics: Sequence[str] = TOPICS,
    publishers: int = 4,
    size: int = 50,
    deletes: float = 0,
) -> Published:
    """Publish `events` events while `crowd` comes and goes, until each has the last of each of its topics."""
    published = Published()
    last: dict[str, EventId] = {}

    def has_all(follower: Follower) -> bool:
        if not last:
            return False
        end = max(last[topic] for topic in follower.topics)
        return number(follower.cursor or "0-0") >= end or follower.stands_before_a_gap(last)

    async def publish(publisher: AsyncPublisher) -> None:
        for _ in range(events // publishers):
            some = chance.sample(topics, k=min(len(topics), chance.choice([1, 1, 1, 2])))
            await publisher.publish(*some, size=chance.choice([0, size]))
            if chance.random() < deletes:
                await publisher.delete(chance.choice(topics))

    async def publish_all() -> None:
        async with AsyncExitStack() as stack:
            each = [AsyncPublisher(broker.port, published.add) for _ in range(publishers)]
            for publisher in each:
                stack.push_async_callback(publisher.close)
            await all_of([publish(publisher) for publisher in each])
            while not all(follower.cursor for follower in crowd):
                await asyncio.sleep(0.01)
            for topic in topics:
                await each[0].publish(topic)
        last.update({topic: published.ids(topic)[-1] for topic in topics})

    async with asyncio.timeout(3 * WAIT_SECONDS):
        await all_of([publish_all(), *(follower.follow(has_all) for follower in crowd)])
    closed_as_slow = broker.metric('broker_closes_total{reason="slow"}')
    assert sum(follower.resets for follower in crowd) <= closed_as_slow, "others are not cut"
    return published


def gaps_of(crowd: Sequence[Follower], published: Published, *, exact: bool = True) -> int:
    return sum(judge(follower, published, exact=exact) for follower in crowd)


def reconnects_of(crowd: Sequence[Follower]) -> int:
    return sum(note.kind == "connect" for follower in crowd for note in follower.notes) - len(crowd)


BEAT = {"heartbeat_seconds": 0.2}
"""So that a follower that has everything soon notices."""
PLENTY = {**BEAT, "retention_events": 100_000, "retention_bytes": 64 << 20}


@pytest.mark.parametrize("sets", [[["a"]], SETS], ids=["one topic", "sets of topics"])
async def test_i2_nothing_is_missed_while_everything_is_kept(
    sets: list[list[str]], chance: random.Random
) -> None:
    with BrokerProcess(**PLENTY) as broker:
        crowd = followers(broker.port, sets, chance)
        topics = sorted({topic for some in sets for topic in some})
        published = await churn(broker, crowd, chance, events=EVENTS, topics=topics)
        assert gaps_of(crowd, published) == 0
        assert reconnects_of(crowd) > len(crowd)
        assert sum(map(len, published.data.values())) > EVENTS


@pytest.mark.parametrize("sets", [[["a"]], SETS], ids=["one topic", "sets of topics"])
async def test_i2_every_gap_is_reported_and_true_if_little_is_kept(
    sets: list[list[str]], chance: random.Random
) -> None:
    with BrokerProcess(**BEAT, retention_events=4) as broker:
        crowd = followers(broker.port, sets, chance)
        topics = sorted({topic for some in sets for topic in some})
        published = await churn(broker, crowd, chance, events=EVENTS, topics=topics)
        assert gaps_of(crowd, published) > 0, "nothing was ever trimmed before it was seen"


async def test_i2_under_pressure_on_the_memory_of_all_logs(chance: random.Random) -> None:
    """All topics together may keep less than each: the least recently used lose their events, which makes a gap."""
    with BrokerProcess(**BEAT, log_memory_bytes=20_000, retention_bytes=20_000) as broker:
        crowd = followers(broker.port, SETS, chance)
        published = await churn(broker, crowd, chance, events=EVENTS, size=1000)
        assert gaps_of(crowd, published) > 0
        assert broker.metric("broker_log_bytes") <= 20_000


async def test_i2_while_topics_are_given_up(chance: random.Random) -> None:
    """More topics than may be remembered: nothing is skipped silently; a gap may be reported if the broker can't rule one out."""
    many = [f"t{n}" for n in range(60)]
    sets = [chance.sample(many, k=chance.choice([1, 1, 2, 5])) for _ in range(100)]
    with BrokerProcess(**BEAT, max_topics=5) as broker:
        crowd = followers(broker.port, sets, chance)
        published = await churn(broker, crowd, chance, events=EVENTS, topics=many)
        gaps_of(crowd, published, exact=False)


async def test_i2_while_topics_are_deleted_and_used_again(chance: random.Random) -> None:
    with BrokerProcess(**PLENTY) as broker:
        crowd = followers(broker.port, SETS, chance)
        published = await churn(broker, crowd, chance, events=EVENTS, deletes=0.05)
        assert gaps_of(crowd, published) > 0
        assert any(note.kind == "end" for follower in crowd for note in follower.notes)


# One by one


def state(broker: BrokerProcess, topic: str) -> dict[str, object]:
    answer = exchange(broker.port, request("GET", f"/topics/{topic}", JSON)).json()
    assert isinstance(answer, dict)
    return answer


def delete(broker: BrokerProcess, topic: str) -> None:
    assert exchange(broker.port, request("DELETE", f"/topics/{topic}")).status == 204


def resumed(broker: BrokerProcess, topic: str, cursor: str) -> Stream:
    """A reconnect, after which one event is published, so that there is something to read in any case."""
    query = f"lastEventId={cursor}"
    target = f"/topics?{topic}&{query}" if "=" in topic else f"/topics/{topic}?{query}"
    stream = Stream(broker.port, target).read_head()
    broker.publish(topic.split("=")[-1], "now")
    return stream


def heard(stream: Stream) -> list[tuple[str | None, str]]:
    """All events up to the one that `resumed` published: type, and data or the gap's reason."""
    while "now" not in [event.data for event in stream.events]:
        assert stream.read()
    return [
        (event.type, json.loads(event.data)["reason"] if event.type == "broker.gap" else event.data)
        for event in stream.events
    ]


@pytest.mark.parametrize("target", ["quiet", "topic=quiet&topic=busy"])
def test_dropped_before_its_first_event_and_back_with_the_cursor_of_broker_open(
    broker: BrokerProcess, target: str
) -> None:
    broker.publish("busy", "before")
    broker.publish("quiet", "before")
    with Stream(
        broker.port, f"/topics?{target}" if "=" in target else f"/topics/{target}"
    ).opened() as stream:
        (opening,) = stream.events
        assert opening.type == "broker.open"
    broker.publish("quiet", "missed")
    with resumed(broker, target, opening.id) as again:
        assert heard(again) == [(None, "missed"), (None, "now")]


def test_event_cut_on_its_way_comes_again_whole(broker: BrokerProcess) -> None:
    with Stream(broker.port, "/topics/a").opened() as stream:
        for number in range(3):
            broker.publish("a", f"{number}" * 50_000)
        while len(stream.events) < 3:
            stream.read(1000)
        cursor = stream.events[-1].id
    with resumed(broker, "a", cursor) as again:
        assert heard(again) == [(None, "2" * 50_000), (None, "now")]


def test_topic_silent_for_longer_than_its_retention_is_no_gap_for_a_cursor_at_its_end() -> None:
    with BrokerProcess(retention_seconds=0.2) as broker:
        first, second = broker.publish("a", "1"), broker.publish("a", "2")
        wait_for(lambda: state(broker, "a")["events"] == 0, "the topic to be trimmed to nothing")
        with resumed(broker, "a", second) as seen:
            assert heard(seen) == [(None, "now")]
        wait_for(lambda: state(broker, "a")["events"] == 0, "the topic to be trimmed to nothing")
        with resumed(broker, "a", first) as unseen:
            assert heard(unseen) == [("broker.gap", "trimmed"), (None, "now")]


def test_events_expire_with_a_subscriber_and_without_publishes() -> None:
    with (
        BrokerProcess(retention_seconds=1, retention_events=10) as broker,
        Stream(broker.port, "/topics/a").opened() as stream,
    ):
        body = b"".join(b'{"data": %d}\n' % number for number in range(1000))
        assert exchange(broker.port, request("POST", "/topics/a", NDJSON, body=body)).status == 200
        stream.wait_for_events(1001)
        assert state(broker, "a")["events"] <= 10, "all events on their way have arrived"  # type: ignore[operator]
        wait_for(lambda: state(broker, "a")["events"] == 0, "the events to expire")


def test_deleted_topic_ends_its_streams_and_is_no_gap_for_a_cursor_at_its_end(broker: BrokerProcess) -> None:
    with (
        Stream(broker.port, "/topics/a").opened() as one,
        Stream(broker.port, "/topics?topic=a&topic=b").opened() as both,
    ):
        first, second = broker.publish("a", "1"), broker.publish("a", "2")
        delete(broker, "a")
        *_, end = one.wait_for_events(4)
        assert (end.type, json.loads(end.data)) == ("broker.end", {"topic": "a", "reason": "deleted"})
        assert not one.read(), "nothing follows"
        broker.publish("a", "anew")
        broker.publish("b", "goes on")
        assert [event.data for event in both.wait_for_events(5)[1:3]] == ["1", "2"]
        assert both.events[3].type == "broker.end"
        assert both.events[4].data == "goes on", (
            "the other topic does; this one had its end on this connection"
        )
    for cursor, gap in ((end.id, False), (second, False), (first, True)):
        with resumed(broker, "a", cursor) as again:
            assert heard(again)[: 1 + gap] == [("broker.gap", "trimmed")] * gap + [(None, "anew")]


def test_cursor_from_before_a_restart_gets_a_gap(broker: BrokerProcess) -> None:
    before = broker.publish("a", "1")
    broker.kill()
    broker.start()
    with resumed(broker, "a", before) as again:
        assert heard(again) == [("broker.gap", "lost"), (None, "now")]


def test_forgotten_topic_is_no_gap_for_a_cursor_at_the_last_event_of_all() -> None:
    with BrokerProcess(topic_memory_seconds=0.2) as broker:
        broker.publish("a", "1")
        last = broker.publish("b", "2")
        wait_for(lambda: broker.metric("broker_topics") == 0, "the topics to be forgotten")
        with Stream(broker.port, "/topics/c").opened() as stream:
            assert stream.events[0].id == last
        wait_for(lambda: broker.metric("broker_subscribers") == 0, "that one to be gone")
        with Stream(broker.port, f"/topics?topic=a&topic=b&topic=c&lastEventId={last}").read_head() as again:
            broker.publish("c", "now")  # not before: an event after the cursor would make the gap a true one
            assert heard(again) == [(None, "now")]


# The follower and the judge themselves


async def test_a_follower_reconnects_if_an_event_of_another_topic_follows_a_gap(
    shared_brokers: SharedBrokers,
) -> None:
    """Only on the next connection does it see that all it lacks is lost."""
    broker = shared_brokers.get(**BEAT)
    cursor = broker.publish("b", "before")
    last = {"a": number(broker.publish("a", "kept")), "b": number(broker.publish("b", "lost"))}
    delete(broker, "b")
    follower = Follower(broker.port, ["a", "b"], random.Random(0))
    follower.cursor = cursor
    await follower.connect(lambda it: it.stands_before_a_gap(last))
    assert [note.kind for note in follower.notes] == ["connect", "gap", "event"]
    await follower.connect(lambda it: it.stands_before_a_gap(last))
    assert [note.kind for note in follower.notes[3:]] == ["connect", "gap"]
    assert follower.stands_before_a_gap(last)


def notes(*seen: str) -> list[Note]:
    """`c5` connects with cursor 5, `o3` opens at 3, `g5` is a gap after 5, `e6` ends the topic, `7` is the event 7."""
    kinds = {"c": "connect", "o": "open", "g": "gap", "e": "end"}
    made = []
    for text in seen:
        kind = kinds.get(text[0], "event")
        at = int(text.lstrip("coge") or -1)
        made.append(Note(kind, "a", -1, f"0-{at}") if kind == "gap" else Note(kind, "a", at, str(at)))
    return made


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        ("c o0 1 2 3 4 5", True),
        ("c o2 3 4 5", True),
        ("c o0 1 2 c2 3 4 5", True),
        ("c o0 c0 1 2 3 4 5", True),
        ("c o0 1 c1 g1 4 5", True),
        ("c o0 1 2 3 4 5 c5", True),
        ("c o0 1 c1 g1", True),
        ("c o0 1 2 e2 3 4 5", False),
        ("c o0 1 2 4 5", False),
        ("c o0 1 2 c2 4 5", False),
        ("c o0 c0 2 3 4 5", False),
        ("c o0 1 2 c2 2 3 4 5", False),
        ("c o0 1 3 2 4 5", False),
        ("c o0 1 2 3", False),
        ("c o0 1 c1 g1 2 3 4 5", False),
        ("c o0 1 c1 g0 4 5", False),
        ("c o0 1 2 3 4 5 c5 g5", False),
        ("c o0 1 2 c2 o5", False),
        ("c o0 1 2 3 4 5 6", False),
    ],
)
def test_judge(seen: str, good: bool) -> None:
    published = Published()
    for event_id in range(1, 6):
        published.add("a", f"0-{event_id}", str(event_id))
    follower = Follower(0, ["a"], random.Random(0))
    follower.notes = notes(*seen.split())
    if good:
        judge(follower, published)
    else:
        with pytest.raises(AssertionError):
            judge(follower, published)
