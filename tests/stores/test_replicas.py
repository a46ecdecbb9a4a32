"""An instance's copies of logs, without a server: what they make of what is read and heard, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from broker.events import EventId, id_at
from broker.fanout.feed import Feed, FeedKey
from broker.log.table import LogTable
from broker.stores.redis.messages import Arrival, End, Facts, Held, heard
from broker.stores.redis.replica import TopicReplica, Watermark
from broker.stores.redis.replicas import Replicas
from broker.topics import Retention, RetentionRules

NOW = 1_700_000_000.0
BORN = id_at(NOW - 1000)
MEMORY_SECONDS = 3600.0
FACTS = Facts(1, BORN, BORN, (BORN,), ())


def at(step: int) -> EventId:
    """An id of the present; they increase with `step`."""
    return id_at(NOW) + step


def frame(event_id: EventId) -> bytes:
    return b"data: %d\n\n" % event_id


class Harness:
    """Copies, and what was asked of those around them."""

    def __init__(self) -> None:
        logs = LogTable(
            0,
            RetentionRules(Retention(100, 10_000, 60)),
            max_bytes=100_000,
            max_topics=10,
            topic_memory_seconds=MEMORY_SECONDS,
        )
        self.delivered: list[str] = []
        self.holes: list[TopicReplica] = []
        self.copies = Replicas(
            logs,
            lambda: NOW,
            topic_memory_seconds=MEMORY_SECONDS,
            deliver=lambda topic, _size: self.delivered.append(topic),
            on_hole=self.holes.append,
        )

    def read(
        self,
        topic: str,
        *entries: tuple[int, int],
        after: EventId | None = None,
        upto: int = 0,
        facts: Facts = FACTS,
    ) -> TopicReplica:
        """A live copy, read when the store's last id was `upto`; `entries` are (id, prev)."""
        copy = self.copies.open(topic)
        page = held(*entries) if entries else Held(None, 0, 0, None, None, False, ())
        self.copies.begin(copy, at(0) if after is None else after, page, facts, at(upto))
        self.copies.go_on(copy, page, facts)
        assert self.copies.go_live(copy, at(upto))
        return copy

    def hear(self, topic: str, *steps: int, prev: EventId, epoch: int = 1, said: int | None = None) -> None:
        entries = tuple((at(step), frame(at(step))) for step in steps)
        self.copies.arrived(
            topic, Arrival(epoch, prev, entries, 0, 10, at(steps[-1] if said is None else said))
        )


def held(
    *entries: tuple[int, int],
    cleared: tuple[int, int] | None = None,
    end: tuple[int, int] | None = None,
    more: bool = False,
) -> Held:
    """What a read answers of a topic whose entries are (id, prev), and its end."""
    cleared_at, cleared_after = cleared or (0, 0)
    made = [(at(step), at(prev), frame(at(step))) for step, prev in entries]
    last = max([made[-1][0]] if made else [0], default=0)
    return Held(
        at(end[0]) if end else last or at(cleared_at),
        at(cleared_at) if cleared else 0,
        at(cleared_after) if cleared else 0,
        End(at(end[0]), at(end[1]), "closed") if end else None,
        None,
        more,
        made,
    )


def steps(copy: TopicReplica, after: EventId = 0) -> Sequence[int]:
    return [entry.id - id_at(NOW) for entry in copy.log.after(after) if entry.frame]


def gaps(copy: TopicReplica, after: EventId = 0) -> list[str]:
    return [entry.gap for entry in copy.log.after(after) if entry.gap is not None]


class Position:
    """Up to where the copies are complete, for a feed."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    @property
    def complete_to(self) -> EventId:
        return self._harness.copies.complete_to.value


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_i2_a_call_for_several_topics_is_not_complete_before_its_last_message(harness: Harness) -> None:
    """Ids 1 and 3 are a's, 2 is b's: who reads both is not written 3 before b's message came."""
    one, other = harness.read("a"), harness.read("b")
    harness.copies.heard(at(0), 1)
    both = Feed(FeedKey(("a", "b"), False), [one.log, other.log], Position(harness))
    messages = [
        heard(b"E 1 0-0 %d 1 1 2 0 8 2 8\ndata: 1\ndata: 3\n" % (NOW * 1000)),
        heard(b"E 1 0-0 %d 1 3 1 1 8\ndata: 2\n" % (NOW * 1000)),
    ]
    assert isinstance(messages[0], Arrival) and isinstance(messages[1], Arrival)
    harness.copies.arrived("a", messages[0])
    assert both.end() == at(1)
    harness.copies.arrived("b", messages[1])
    assert both.end() == at(3)
    piece = both.piece_after(at(0), at(3))
    assert piece is not None and piece.chunk.count(b"data:") == 3


def test_what_was_held_back_is_delivered_once_it_is_complete(harness: Harness) -> None:
    harness.read("a")
    harness.copies.heard(at(0), 1)
    harness.hear("a", 1, 3, prev=at(0), said=1)
    harness.delivered.clear()
    harness.copies.heard(at(3), 1)
    assert harness.delivered == ["a"]


def test_i2_new_facts_are_learned_before_anybody_is_complete_behind_them(harness: Harness) -> None:
    """A probe of a new epoch may be heard before the answer that tells what was lost."""
    copy = harness.read("a")
    harness.copies.heard(at(1), 1)
    harness.copies.heard(at(9), 2)
    assert harness.copies.complete_to.value == at(1)
    harness.copies.learn(Facts(2, BORN, BORN, (BORN, at(5)), ()))
    assert harness.copies.complete_to.value == at(9)
    assert gaps(copy) == ["lost"]


def test_i2_a_loss_is_told_of_a_topic_of_which_the_store_knows_nothing(harness: Harness) -> None:
    """Its record is lost too; the copy began behind the loss, and somebody comes back with a cursor from before."""
    facts = Facts(2, BORN, BORN, (BORN, at(5)), ())
    copy = harness.read("a", after=at(9), upto=9, facts=facts)
    assert copy.log.reaches(at(2))
    assert gaps(copy, after=at(2)) == ["lost"]
    assert gaps(copy, after=at(9)) == []


def test_i2_a_delete_between_two_pages_of_the_first_read_hides_what_was_read(harness: Harness) -> None:
    copy = harness.copies.open("a")
    first = held((1, 0), (2, 1), more=True)
    harness.copies.begin(copy, at(0), first, FACTS, at(3))
    harness.copies.go_on(copy, first, FACTS)
    harness.copies.go_on(copy, held((5, 4), cleared=(4, 3)), FACTS)
    assert harness.copies.go_live(copy, at(5))
    assert copy.log.visible()[2] == 1
    assert steps(copy, copy.log.start_after(0)) == [5]
    assert copy.log.has_gap(at(2))
    assert not copy.log.has_gap(at(3))


def test_no_gap_where_the_floor_rises_under_a_live_copy(harness: Harness) -> None:
    """Its record was given up with others; nothing of this topic was missed, for its channel was heard all the time."""
    copy = harness.read("a", (1, 0))
    harness.copies.heard(at(1), 1)
    harness.hear("a", 9, prev=at(7), epoch=2)
    assert harness.holes == [copy]
    facts = Facts(2, BORN, at(7), (BORN,), ())
    harness.copies.go_on(copy, held((9, 7)), facts)
    assert harness.copies.go_live(copy, at(9))
    assert (steps(copy), gaps(copy)) == ([1, 9], [])


def test_no_gap_in_a_topic_unknown_for_longer_than_is_remembered(harness: Harness) -> None:
    """What stands for its last id rises with time, and nothing else was heard yet."""
    copy = harness.read("a", upto=0, facts=Facts(1, id_at(1), id_at(1), (id_at(1),), ()))
    harness.hear("a", 1, prev=id_at(NOW - MEMORY_SECONDS + 0.5))
    assert harness.holes == []
    assert (steps(copy), gaps(copy)) == ([1], [])


def test_i2_what_was_lost_is_told_of_each_topic_of_a_connection(harness: Harness) -> None:
    logs = [harness.read(topic).log for topic in "abc"]
    harness.copies.heard(at(1), 1)
    harness.copies.learn(Facts(2, BORN, BORN, (BORN, at(5)), ()))
    for topic in "abc":
        harness.hear(topic, *[6], prev=at(0), epoch=2)
    feed = Feed(FeedKey(("a", "b", "c"), False), logs, Position(harness))
    piece = feed.piece_after(at(1), at(5))
    assert piece is not None
    assert (piece.gaps, piece.end, piece.events) == (("lost",) * 3, at(5), 0)
    assert [b'"topic":"%s"' % topic in piece.chunk for topic in (b"a", b"b", b"c")] == [True] * 3
    assert feed.piece_after(at(5), at(5)) is None


def test_the_newest_events_are_counted_without_the_gaps_between(harness: Harness) -> None:
    copy = harness.read("a", (1, 0), (2, 1), (3, 2))
    harness.copies.learn(Facts(2, BORN, BORN, (BORN, at(5)), ()))
    harness.hear("a", 6, prev=at(3), epoch=2)
    starts = [copy.log.start_before(count) for count in (1, 2, 3, 9)]
    assert [steps(copy, start) for start in starts] == [[6], [3, 6], [2, 3, 6], [1, 2, 3, 6]]
    assert copy.log.gap_entries == 1
    copy.log.empty()
    assert (copy.log.gap_entries, copy.log.start_before(2)) == (0, at(6))


def ends(copy: TopicReplica, after: EventId = 0) -> list[EventId]:
    return [entry.id - id_at(NOW) for entry in copy.log.after(after) if entry.end]


def close(harness: Harness, topic: str, step: int, prev: EventId, epoch: int = 1) -> None:
    harness.copies.arrived(topic, Arrival(epoch, prev, (), at(step), 0, at(step), "closed"))


def test_an_end_is_heard(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    close(harness, "a", 2, prev=at(1))
    assert (ends(copy), copy.tail, harness.holes) == ([2], at(2), [])
    assert copy.log.end is not None
    assert harness.delivered == ["a"] * len(harness.delivered) != []


def test_an_end_that_was_missed_is_read(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    harness.copies.break_off(copy)
    harness.copies.go_on(copy, held((2, 1), end=(3, 2)), FACTS)
    assert harness.copies.go_live(copy, at(3))
    assert (steps(copy), ends(copy), gaps(copy)) == ([1, 2, 3], [3], [])


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_a_copy_has_the_end_wherever_it_begins(harness: Harness, after: int) -> None:
    copy = harness.copies.open("a")
    page = held(*[(1, 0)] * (after < 1), end=(2, 1))
    harness.copies.begin(copy, at(after), page, FACTS, at(9))
    harness.copies.go_on(copy, page, FACTS)
    assert harness.copies.go_live(copy, at(9))
    assert ends(copy) == [2]
    assert copy.log.reaches(at(after))
    assert not copy.log.has_gap(at(max(after, 1)))


def test_an_end_of_a_page_that_is_not_the_last_waits(harness: Harness) -> None:
    copy = harness.copies.open("a")
    first = held((1, 0), end=(3, 2), more=True)
    harness.copies.begin(copy, at(0), first, FACTS, at(3))
    harness.copies.go_on(copy, first, FACTS)
    assert ends(copy) == []
    harness.copies.go_on(copy, held((2, 1), end=(3, 2)), FACTS)
    assert (steps(copy), ends(copy)) == ([1, 2, 3], [3])


def test_what_is_lost_before_an_end_is_told_before_it(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    harness.copies.break_off(copy)
    facts = Facts(2, BORN, BORN, (BORN, at(5)), ())
    harness.copies.go_on(copy, held(end=(7, 1)), facts)
    assert harness.copies.go_live(copy, at(7))
    assert [(entry.id, entry.gap, entry.end) for entry in copy.log.after(at(1))] == [
        (at(5), "lost", False),
        (at(7), None, True),
    ]


def test_what_is_lost_behind_an_end_is_no_entry(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    close(harness, "a", 2, prev=at(1))
    harness.copies.learn(Facts(2, BORN, BORN, (BORN, at(5)), ()))
    assert (ends(copy), gaps(copy), copy.log.lost_at) == ([2], [], at(5))


def test_a_topic_whose_end_the_store_has_lost_is_open_again(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    close(harness, "a", 3, prev=at(1))
    harness.copies.break_off(copy)
    facts = Facts(2, BORN, BORN, (BORN, at(5)), ())
    harness.copies.go_on(copy, held((1, 0), (6, 1)), facts)
    assert harness.copies.go_live(copy, at(6))
    assert (steps(copy), ends(copy), gaps(copy)) == ([1, 6], [], ["lost"])
    assert copy.log.end is None


def test_a_topic_that_had_ended_where_the_store_went_back_to_ends_after_the_loss(harness: Harness) -> None:
    copy = harness.read("a", (1, 0))
    harness.hear("a", 4, prev=at(1))
    harness.copies.break_off(copy)
    facts = Facts(2, BORN, BORN, (BORN, at(5)), ())
    harness.copies.go_on(copy, held(end=(2, 1)), facts)
    assert harness.copies.go_live(copy, at(5))
    assert [(entry.id, entry.gap, entry.end) for entry in copy.log.after(at(4))] == [
        (at(5), "lost", False),
        (at(5), None, True),
    ]
    harness.copies.break_off(copy)
    harness.copies.go_on(copy, held(end=(2, 1)), facts)
    assert harness.copies.go_live(copy, at(5))
    assert ends(copy) == [5]


async def test_who_waited_for_a_level_in_vain_is_forgotten() -> None:
    level = Watermark()
    for _ in range(100):
        level.reached(5).cancel()
    await asyncio.sleep(0)
    assert len(level._waiting) == 0
    waiting = level.reached(5)
    level.rise(5)
    assert waiting.done()
    await asyncio.sleep(0)
    assert len(level._waiting) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"E",
        b"E 1\n",
        b"E 1 0-0 5 1 1 1 0\n",
        b"E 1 0-0 5 1 1 0\n",
        b"E 1 0-0 5 1 2 2 0 5\nabcde",
        b"E 1 0-0 5 1 1 1 0 99\ndata: x\n",
        b"E x 0-0 5 1 1 1 0 8\ndata: x\n",
        b"D 1 0-0\n",
        b"D 1 0-0 x-y\n",
        b"C 1 0-0 5-0\n",
        b"C 1 0-0 x closed\n",
        b"F 1 2 3 0-0 5 1 1 1 0 8\ndata: x\n",
        b"F 1 2 3\n",
        b"P 1\n",
        b"P 1 5-0 6-0\n",
        b"Q 1 5-0\n",
        "E 1 0-0 ५ 1 1 1 0 8\ndata: x\n".encode(),
    ],
)
def test_what_is_no_message_of_a_store(data: bytes) -> None:
    with pytest.raises(ValueError):
        heard(data)
