"""Replicas without a server: pages and updates in any order, and the logs they result in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.events import EventId, id_at
from broker.fanout.feed import Feed, FeedKey
from broker.log.table import LogTable
from broker.stores.redis.delivery import Delivery
from broker.stores.redis.formats import StoreHistory, TopicEnd, TopicPage, TopicUpdate, decode_payload
from broker.stores.redis.replica import BUFFER_BYTES, TRANSITIONS, Phase, TopicReplica
from broker.stores.redis.replicas import Replicas
from broker.topics import Retention, RetentionRules
from tests.support.store_harness import RecordingOwner

NOW = 1_700_000_000.0
BORN = id_at(NOW - 1000)
FORGOTTEN_TO = BORN
MEMORY_SECONDS = 3600.0
HISTORY = StoreHistory(1, BORN, BORN, (BORN,), ())
LOSS_AT_5 = StoreHistory(2, BORN, BORN, (BORN, id_at(NOW) + 5), ())


def at(step: int) -> EventId:
    """An id of the present; they increase with `step`."""
    return id_at(NOW) + step


def frame(event_id: EventId) -> bytes:
    return b"data: %d\n\n" % event_id


class Harness:
    """Replicas, their deliveries, and those that must be read again."""

    def __init__(self, max_bytes: int = 100_000) -> None:
        logs = LogTable(
            0,
            RetentionRules(Retention(100, 10_000, 60)),
            max_bytes=max_bytes,
            max_topics=10,
            topic_memory_seconds=MEMORY_SECONDS,
        )
        self.owner = RecordingOwner()
        self.interrupted: list[TopicReplica] = []
        delivery = Delivery()
        delivery.start(self.owner)
        self.replicas = Replicas(logs, lambda: NOW, delivery)

    @property
    def complete_to(self) -> EventId:
        return self.replicas.complete_to.value

    @property
    def delivered(self) -> list[str]:
        return [topic for topic, _ in self.owner.deliveries]

    def read(
        self,
        topic: str,
        *entries: tuple[int, int],
        after: EventId | None = None,
        upto: int = 0,
        history: StoreHistory = HISTORY,
    ) -> TopicReplica:
        """A live replica, read when the store's last id was `upto`; `entries` are (id, prev)."""
        replica = self.replicas.open(topic)
        first = page(*entries) if entries else TopicPage(None, 0, 0, None, None, False, (), FORGOTTEN_TO)
        self.begin(replica, first, at(0) if after is None else after, upto=upto, history=history)
        assert self.replicas.go_live(replica, at(upto))
        return replica

    def begin(
        self,
        replica: TopicReplica,
        first: TopicPage,
        after: EventId,
        *,
        upto: int,
        history: StoreHistory = HISTORY,
    ) -> None:
        replica.begin(first, after, history)
        self.read_on(replica, first, history)

    def read_on(self, replica: TopicReplica, following: TopicPage, history: StoreHistory = HISTORY) -> None:
        self.replicas.learn(history)
        replica.apply_page(following)

    def disconnect(self) -> None:
        self.replicas.disconnected()

    def receive(
        self, topic: str, *steps: int, prev: EventId, epoch: int = 1, announced: int | None = None
    ) -> None:
        entries = tuple((at(step), frame(at(step))) for step in steps)
        announced_to = at(steps[-1] if announced is None else announced)
        self.receive_update(topic, TopicUpdate(epoch, prev, at(steps[-1]), entries, 10, announced_to))

    def receive_update(self, topic: str, update: TopicUpdate) -> None:
        interrupted = self.replicas.receive(topic, update)
        if interrupted is not None:
            self.interrupted.append(interrupted)


def page(
    *entries: tuple[int, int],
    cleared: tuple[int, int] | None = None,
    end: tuple[int, int] | None = None,
    more: bool = False,
) -> TopicPage:
    """A page of a topic with entries (id, prev), and its end."""
    cleared_at, cleared_after = cleared or (0, 0)
    made = [(at(step), at(prev), frame(at(step))) for step, prev in entries]
    last = max([made[-1][0]] if made else [0], default=0)
    return TopicPage(
        at(end[0]) if end else last or at(cleared_at),
        at(cleared_at) if cleared else 0,
        at(cleared_after) if cleared else 0,
        TopicEnd(at(end[0]), at(end[1]), "closed") if end else None,
        None,
        more,
        made,
    )


def steps(replica: TopicReplica, after: EventId = 0) -> Sequence[int]:
    return [entry.id - id_at(NOW) for entry in replica.log.after(after) if entry.frame]


def gaps(replica: TopicReplica, after: EventId = 0) -> list[str]:
    return [entry.gap for entry in replica.log.after(after) if entry.gap is not None]


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_i2_a_call_for_several_topics_is_complete_with_its_last_payload(harness: Harness) -> None:
    """Ids 1 and 3 are a's, 2 is b's: a subscriber of both is not written 3 before b's payload arrived."""
    one, other = harness.read("a"), harness.read("b")
    harness.replicas.received(at(0), 1)
    both = Feed(FeedKey(("a", "b"), False), [one.log, other.log], harness)
    payloads = [
        decode_payload(b"E 1 0-0 %d 1 1 2 0 8 2 8\ndata: 1\ndata: 3\n" % (NOW * 1000)),
        decode_payload(b"E 1 0-0 %d 1 3 1 1 8\ndata: 2\n" % (NOW * 1000)),
    ]
    assert isinstance(payloads[0], TopicUpdate) and isinstance(payloads[1], TopicUpdate)
    harness.receive_update("a", payloads[0])
    assert both.end() == at(1)
    harness.receive_update("b", payloads[1])
    assert both.end() == at(3)
    piece = both.piece_after(at(0), at(3))
    assert piece is not None and piece.chunk.count(b"data:") == 3


def test_an_entry_beyond_complete_to_is_delivered_again(harness: Harness) -> None:
    harness.read("a")
    harness.replicas.received(at(0), 1)
    harness.receive("a", 1, 3, prev=at(0), announced=1)
    harness.owner.deliveries.clear()
    harness.replicas.received(at(3), 1)
    assert harness.delivered == ["a"]


def test_i2_complete_to_waits_for_a_new_history(harness: Harness) -> None:
    """A probe of a new epoch may arrive before the reply with the new losses."""
    replica = harness.read("a")
    harness.replicas.received(at(1), 1)
    harness.replicas.received(at(9), 2)
    assert harness.replicas.complete_to.value == at(1)
    harness.replicas.learn(LOSS_AT_5)
    assert harness.replicas.complete_to.value == at(9)
    assert gaps(replica) == ["lost"]


def test_i2_a_loss_in_a_topic_without_a_record(harness: Harness) -> None:
    """Its record is lost too; the replica begins after the loss, and a subscriber returns with an earlier cursor."""
    replica = harness.read("a", after=at(9), upto=9, history=LOSS_AT_5)
    assert replica.log.reaches(at(2))
    assert gaps(replica, after=at(2)) == ["lost"]
    assert gaps(replica, after=at(9)) == []


def test_i2_a_delete_between_two_pages_of_the_first_read_hides_what_was_read(harness: Harness) -> None:
    replica = harness.replicas.open("a")
    first = page((1, 0), (2, 1), more=True)
    harness.begin(replica, first, at(0), upto=3)
    harness.read_on(replica, page((5, 4), cleared=(4, 3)))
    assert harness.replicas.go_live(replica, at(5))
    assert replica.log.visible()[2] == 1
    assert steps(replica, replica.log.start_after(0)) == [5]
    assert replica.log.has_gap(at(2))
    assert not replica.log.has_gap(at(3))


def test_no_gap_when_the_floor_rises_above_a_live_replica(harness: Harness) -> None:
    """Its record was forgotten, but no update was missed: the channel was subscribed all the time."""
    replica = harness.read("a", (1, 0))
    harness.replicas.received(at(1), 1)
    harness.receive("a", 9, prev=at(7), epoch=2)
    assert harness.interrupted == [replica]
    history = StoreHistory(2, BORN, at(7), (BORN,), ())
    harness.read_on(replica, page((9, 7)), history)
    assert harness.replicas.go_live(replica, at(9))
    assert (steps(replica), gaps(replica)) == ([1, 9], [])


def test_no_gap_in_a_topic_unknown_for_longer_than_topic_memory(harness: Harness) -> None:
    """The assumed last id rises with time, and no update was received yet."""
    replica = harness.read("a", upto=0, history=StoreHistory(1, id_at(1), id_at(1), (id_at(1),), ()))
    harness.receive("a", 1, prev=id_at(NOW - MEMORY_SECONDS + 0.5))
    assert harness.interrupted == []
    assert (steps(replica), gaps(replica)) == ([1], [])


def test_i2_a_loss_is_a_gap_in_each_topic_of_a_connection(harness: Harness) -> None:
    logs = [harness.read(topic).log for topic in "abc"]
    harness.replicas.received(at(1), 1)
    harness.replicas.learn(LOSS_AT_5)
    for topic in "abc":
        harness.receive(topic, *[6], prev=at(0), epoch=2)
    feed = Feed(FeedKey(("a", "b", "c"), False), logs, harness)
    piece = feed.piece_after(at(1), at(5))
    assert piece is not None
    assert (piece.gaps, piece.end, piece.events) == (("lost",) * 3, at(5), 0)
    assert [b'"topic":"%s"' % topic in piece.chunk for topic in (b"a", b"b", b"c")] == [True] * 3
    assert feed.piece_after(at(5), at(5)) is None


def test_the_newest_events_are_counted_without_gaps(harness: Harness) -> None:
    replica = harness.read("a", (1, 0), (2, 1), (3, 2))
    harness.replicas.learn(LOSS_AT_5)
    harness.receive("a", 6, prev=at(3), epoch=2)
    starts = [replica.log.start_before(count) for count in (1, 2, 3, 9)]
    assert [steps(replica, start) for start in starts] == [[6], [3, 6], [2, 3, 6], [1, 2, 3, 6]]
    assert replica.log.gap_entries == 1
    replica.log.empty()
    assert (replica.log.gap_entries, replica.log.start_before(2)) == (0, at(6))


def ends(replica: TopicReplica, after: EventId = 0) -> list[EventId]:
    return [entry.id - id_at(NOW) for entry in replica.log.after(after) if entry.end]


def close(harness: Harness, topic: str, step: int, prev: EventId, epoch: int = 1) -> None:
    harness.receive_update(topic, TopicUpdate(epoch, prev, at(step), (), 0, at(step), "closed"))


def test_an_end_is_received(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    close(harness, "a", 2, prev=at(1))
    assert (ends(replica), replica.tail, harness.interrupted) == ([2], at(2), [])
    assert replica.log.end is not None
    assert harness.delivered == ["a"] * len(harness.delivered) != []


def test_a_missed_end_is_read(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    harness.disconnect()
    harness.read_on(replica, page((2, 1), end=(3, 2)))
    assert harness.replicas.go_live(replica, at(3))
    assert (steps(replica), ends(replica), gaps(replica)) == ([1, 2, 3], [3], [])


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_a_replica_has_the_end_wherever_it_begins(harness: Harness, after: int) -> None:
    replica = harness.replicas.open("a")
    first = page(*[(1, 0)] * (after < 1), end=(2, 1))
    harness.begin(replica, first, at(after), upto=9)
    assert harness.replicas.go_live(replica, at(9))
    assert ends(replica) == [2]
    assert replica.log.reaches(at(after))
    assert not replica.log.has_gap(at(max(after, 1)))


def test_an_end_is_applied_with_the_last_page(harness: Harness) -> None:
    replica = harness.replicas.open("a")
    first = page((1, 0), end=(3, 2), more=True)
    harness.begin(replica, first, at(0), upto=3)
    assert ends(replica) == []
    harness.read_on(replica, page((2, 1), end=(3, 2)))
    assert (steps(replica), ends(replica)) == ([1, 2, 3], [3])


def test_i2_what_is_trimmed_between_two_pages_is_a_gap(harness: Harness) -> None:
    """The store drops 3 to 5 after the first page was read: the second has no entry."""
    replica = harness.replicas.open("a")
    harness.begin(replica, page((1, 0), (2, 1), more=True), at(0), upto=5)
    harness.read_on(replica, TopicPage(at(5), 0, 0, None, None, False, ()))
    assert harness.replicas.go_live(replica, at(5))
    assert [(entry.id, entry.gap) for entry in replica.log.after(at(1))] == [
        (at(2), None),
        (at(5), "trimmed"),
    ]


def test_a_loss_before_an_end_is_a_gap_before_it(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    harness.disconnect()
    harness.read_on(replica, page(end=(7, 1)), LOSS_AT_5)
    assert harness.replicas.go_live(replica, at(7))
    assert [(entry.id, entry.gap, entry.end) for entry in replica.log.after(at(1))] == [
        (at(5), "lost", False),
        (at(7), None, True),
    ]


def test_a_loss_after_an_end_is_not_an_entry(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    close(harness, "a", 2, prev=at(1))
    harness.replicas.learn(LOSS_AT_5)
    assert (ends(replica), gaps(replica), replica.log.lost_at) == ([2], [], at(5))


def test_a_topic_is_open_again_if_its_end_is_lost(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    close(harness, "a", 3, prev=at(1))
    harness.disconnect()
    harness.read_on(replica, page((1, 0), (6, 1)), LOSS_AT_5)
    assert harness.replicas.go_live(replica, at(6))
    assert (steps(replica), ends(replica), gaps(replica)) == ([1, 6], [], ["lost"])
    assert replica.log.end is None


def test_a_topic_closed_before_the_loss_ends_after_it(harness: Harness) -> None:
    replica = harness.read("a", (1, 0))
    harness.receive("a", 4, prev=at(1))
    harness.disconnect()
    harness.read_on(replica, page(end=(2, 1)), LOSS_AT_5)
    assert harness.replicas.go_live(replica, at(5))
    assert [(entry.id, entry.gap, entry.end) for entry in replica.log.after(at(4))] == [
        (at(5), "lost", False),
        (at(5), None, True),
    ]
    harness.disconnect()
    harness.read_on(replica, page(end=(2, 1)), LOSS_AT_5)
    assert harness.replicas.go_live(replica, at(5))
    assert ends(replica) == [5]


def test_a_replica_goes_through_its_phases(harness: Harness) -> None:
    replica = harness.replicas.open("a")
    phases = [replica.phase]
    harness.begin(replica, page((1, 0)), at(0), upto=1)
    phases.append(replica.phase)
    assert not replica.is_readable
    assert harness.replicas.go_live(replica, at(1))
    phases.append(replica.phase)
    harness.disconnect()
    phases.append(replica.phase)
    assert replica.is_readable
    assert harness.replicas.go_live(replica, at(1))
    phases.append(replica.phase)
    assert phases == [Phase.EMPTY, Phase.FILLING, Phase.LIVE, Phase.STALE, Phase.LIVE]


def test_no_phase_is_skipped(harness: Harness) -> None:
    replica = harness.replicas.open("a")
    with pytest.raises(AssertionError):
        replica.interrupt()
    harness.begin(replica, page((1, 0)), at(0), upto=1)
    with pytest.raises(AssertionError):
        replica.begin(page((1, 0)), at(0), HISTORY)
    assert set(TRANSITIONS) == set(Phase)


def test_too_large_a_buffer_makes_the_store_be_read_again(harness: Harness) -> None:
    replica = harness.replicas.open("a")
    harness.begin(replica, page((1, 0)), at(0), upto=1)
    for step in (2, 3):
        entries = ((at(step), frame(at(step))),)
        size = BUFFER_BYTES // 2 + 1
        harness.receive_update("a", TopicUpdate(1, at(step - 1), at(step), entries, size, at(step)))
    assert not harness.replicas.go_live(replica, at(1))
    replica.clear_buffer()
    harness.read_on(replica, page((2, 1), (3, 2)))
    assert harness.replicas.go_live(replica, at(3))
    assert steps(replica) == [1, 2, 3]


def test_i2_what_is_trimmed_between_two_pages_in_front_is_a_gap(harness: Harness) -> None:
    replica = harness.read("a", (9, 8), after=at(8))
    entries = [(at(step), at(prev), frame(at(step))) for step, prev in ((2, 1), (5, 4), (6, 5))]
    harness.replicas.prepend(replica, entries, at(1))
    assert [(entry.id, entry.gap) for entry in replica.log.after(at(1))] == [
        (at(2), None),
        (at(4), "trimmed"),
        (at(5), None),
        (at(6), None),
        (at(8), "trimmed"),
        (at(9), None),
    ]
