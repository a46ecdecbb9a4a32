"""One topic's log against a plain list that forgets nothing: the entries, the gaps, and where a reader joins on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker import sse
from broker.events import SEQUENCE_BITS, EventId, id_at, id_seconds
from broker.log.entry import ENTRY_OVERHEAD_BYTES, Entry
from broker.log.log import Log
from broker.topics import Retention

START = 1_763_791_200_000 << SEQUENCE_BITS
SECOND = 1000 << SEQUENCE_BITS
FOREVER = Retention(events=1000, bytes=1 << 20, seconds=3600)


def frame(event_id: EventId, data: bytes = b"x") -> bytes:
    return sse.frame(sse.lines(data), event_id)


def filled(count: int, retention: Retention = FOREVER) -> Log:
    """A log with `count` events, a second apart, the first a second after `START`."""
    log = Log(START, retention)
    for event_id in ids(count):
        log.append(event_id, frame(event_id))
    return log


def ids(count: int) -> list[EventId]:
    return [START + n * SECOND for n in range(1, count + 1)]


def entry_ids(log: Log, cursor: EventId = 0) -> list[EventId]:
    return [entry.id for entry in log.after(cursor)]


@dataclass
class Past:
    """An event, or an end, as the model remembers it, long after the log forgot it."""

    id: EventId
    prev: EventId
    size: int
    end: bool
    envelope: int = 0


class LogAgainstList(RuleBasedStateMachine):
    """`history` has all entries ever added; `first` is the index of the oldest that must still be in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Past] = []
        self.first = 0
        self.began = START
        self.now = id_seconds(START)
        self.cleared_at: EventId = 0
        self.retention = Retention(events=5, bytes=400, seconds=30)
        self.log = Log(self.began, self.retention)

    @property
    def kept(self) -> list[Past]:
        return self.history[self.first :]

    @property
    def seen(self) -> list[Past]:
        """The events for a new reader."""
        return [past for past in self.kept if past.id > self.cleared_at]

    @property
    def is_closed(self) -> bool:
        return bool(self.history) and self.history[-1].end and self.history[-1].id > self.cleared_at

    @property
    def counted(self) -> list[Past]:
        """The events in the log; not the end of a closed topic, which stays and isn't counted."""
        return self.kept[:-1] if self.is_closed else self.kept

    # What happens to a log

    @precondition(lambda self: not self.is_closed)
    @rule(ms=st.integers(0, 20_000), n=st.integers(0, 2), size=st.sampled_from([0, 1, 50, 120, 500]))
    def append(self, ms: int, n: int, size: int) -> None:
        event_id = max(self.log.last + 1, id_at(self.now)) + (ms << SEQUENCE_BITS) + n
        self.now = max(self.now, id_seconds(event_id))
        data = frame(event_id, b"x" * size)
        self.history.append(Past(event_id, self.log.last, len(data), end=False))
        self.log.append(event_id, data)

    @rule(seconds=st.sampled_from([0, 1, 10, 29, 31, 4000]))
    def trim(self, seconds: int) -> None:
        self.now += seconds
        self.log.trim(self.now)
        oldest = id_at(self.now - self.retention.seconds)
        while self.counted:
            kept, eldest = self.counted, self.counted[0]
            size = sum(past.size for past in kept)
            over = len(kept) > self.retention.events or size > self.retention.bytes
            wanted = eldest.id >= oldest and eldest.id > self.cleared_at and (not over or len(kept) == 1)
            if wanted or self.is_on_its_way(eldest):
                break
            self.first += 1

    @rule()
    def empty(self) -> None:
        self.log.empty()
        while self.counted and not self.is_on_its_way(self.counted[0]):
            self.first += 1

    def is_on_its_way(self, past: Past) -> bool:
        return self.log.trim_barrier is not None and past.id > self.log.trim_barrier

    @precondition(lambda self: not self.is_closed)
    @rule()
    def close(self) -> None:
        end_id = self.log.last + 1
        data = sse.end("a", "closed", end_id)
        self.history.append(Past(end_id, self.log.last, len(data), end=True))
        self.log.close(end_id, data)

    @rule()
    def clear(self) -> None:
        end_id = self.log.last + 1
        data = sse.control("broker.end", {"topic": "a", "reason": "deleted"}, end_id)
        self.history.append(Past(end_id, self.log.last, len(data), end=True))
        self.log.clear(end_id, data)
        self.cleared_at = end_id

    @rule(move=st.data())
    def move_barrier(self, move: Any) -> None:
        """A hub sets the barrier at the newest entry, and only moves it forward or removes it."""
        places = [
            self.log.last,
            None,
            *(past.id for past in self.kept if past.id > (self.log.trim_barrier or 0)),
        ]
        self.log.trim_barrier = move.draw(st.sampled_from(places), label="barrier")

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def envelope(self, data: Any) -> None:
        index = data.draw(st.integers(0, len(self.kept) - 1), label="which")
        entry = list(self.log.after(0))[index]
        text = self.log.enveloped("a", entry)
        assert self.log.enveloped("a", entry) is text, "I5: encoded once"
        if self.kept[index] in self.counted and text is not entry.frame:
            self.kept[index].envelope = len(text)

    # What must hold whatever happened

    def cursors(self) -> list[EventId]:
        around = {self.began, *(past.id for past in self.history[-40:])}
        return sorted({0, *around, *(at - 1 for at in around), *(at + 1 for at in around)})

    @invariant()
    def holds_the_same(self) -> None:
        assert [(entry.id, entry.prev, entry.end) for entry in self.log.after(0)] == [
            (past.id, past.prev, past.end) for past in self.kept
        ]
        assert len(self.log) == len(self.kept)
        assert self.log.last == (self.history[-1].id if self.history else self.began)
        assert self.log.named == bool(self.history)
        assert (self.log.end is not None) == self.is_closed

    @invariant()
    def counts_its_bytes(self) -> None:
        frames = sum(past.size for past in self.counted)
        envelopes = sum(past.envelope for past in self.counted)
        assert (self.log.bytes, self.log.envelope_bytes) == (frames, envelopes)
        assert self.log.footprint == frames + envelopes + len(self.counted) * ENTRY_OVERHEAD_BYTES

    @invariant()
    def shows_what_a_newcomer_can_have(self) -> None:
        first, last, count, size = self.log.visible()
        seen = self.seen[:-1] if self.is_closed else self.seen
        assert (count, size) == (len(seen), sum(past.size for past in seen))
        assert (first and first.id, last and last.id) == ((seen[0].id, seen[-1].id) if seen else (None, None))

    @invariant()
    def tells_of_every_gap_and_of_no_other(self) -> None:
        """I2. Only events can be missed: a cursor before the end of a reopened topic lacks nothing."""
        seen, kept = {past.id for past in self.seen}, {past.id for past in self.kept}
        for cursor in self.cursors():
            unknown = cursor < self.began
            missed = any(past.id > cursor and past.id not in seen and not past.end for past in self.history)
            assert self.log.has_gap(cursor) == (unknown or missed), cursor
            cut = any(past.id > cursor and past.id not in kept for past in self.history)
            assert self.log.has_moved_past(cursor) == (unknown or cut), cursor

    @invariant()
    def starts_a_reader_where_nothing_is_skipped(self) -> None:
        for cursor in self.cursors():
            start = self.log.start_after(cursor)
            assert start >= cursor
            assert not self.log.has_gap(start)
            assert not self.log.has_moved_past(start)
            assert entry_ids(self.log, start) == [past.id for past in self.seen if past.id > cursor]

    @invariant()
    def starts_a_reader_so_many_events_back(self) -> None:
        for count in range(len(self.seen) + 3):
            start = self.log.start_before(count)
            wanted = count + self.is_closed
            assert (
                entry_ids(self.log, start)
                == [past.id for past in self.seen][-wanted or len(self.history) + 1 :]
            )
            assert not self.log.has_moved_past(start)


LogAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLogAgainstList = LogAgainstList.TestCase


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (Retention(events=3, bytes=1 << 20, seconds=3600), 3),
        (Retention(events=1, bytes=1 << 20, seconds=3600), 1),
        (Retention(events=1000, bytes=2 * len(frame(START)), seconds=3600), 2),
        (Retention(events=1000, bytes=1, seconds=3600), 1),
        (Retention(events=1000, bytes=1 << 20, seconds=4.5), 5),
        (Retention(events=1000, bytes=1 << 20, seconds=4), 5),
    ],
)
def test_tightest_bound_rules(retention: Retention, left: int) -> None:
    log = filled(10, retention)
    log.trim(id_seconds(log.last))
    assert entry_ids(log) == ids(10)[-left:]


def test_newest_event_stays_however_large_until_it_is_too_old() -> None:
    log = Log(START, Retention(events=10, bytes=10, seconds=5))
    log.append(START + SECOND, frame(START + SECOND, b"x" * 1000))
    log.trim(id_seconds(START + 2 * SECOND))
    assert len(log) == 1
    log.trim(id_seconds(START + 7 * SECOND))
    assert len(log) == 0


def test_silence_longer_than_retention_is_no_gap() -> None:
    log = filled(1)
    seen = log.last
    log.trim(id_seconds(seen) + 100_000)
    assert not len(log)
    assert not log.has_gap(seen)
    assert log.has_gap(seen - 1)


def test_entries_on_their_way_are_not_trimmed() -> None:
    log = filled(10, Retention(events=1, bytes=1, seconds=1))
    log.trim_barrier = ids(10)[3]
    log.trim(id_seconds(log.last) + 100)
    log.empty()
    assert entry_ids(log) == ids(10)[4:]


def test_clear_hides_entries_from_new_readers_but_not_from_subscribers() -> None:
    log = filled(3)
    log.trim_barrier = START
    end = log.last + SECOND
    log.clear(end, sse.control("broker.end", {"topic": "a", "reason": "deleted"}, end))
    assert entry_ids(log) == [*ids(3), end]
    assert log.visible() == (None, None, 0, 0)
    assert entry_ids(log, log.start_after(0)) == entry_ids(log, log.start_before(10)) == []


def test_a_loss_after_a_delete_does_not_bring_back_what_was_deleted() -> None:
    log = filled(3)
    log.trim_barrier = START  # so that the entries are still there
    end = log.last + SECOND
    log.clear(end, b"end")
    log.append_gap(end + SECOND, "lost")
    log.append_after(end + SECOND, end + 2 * SECOND, frame(end + 2 * SECOND))
    for cursor in (0, ids(3)[0], ids(3)[-1]):
        assert entry_ids(log, log.start_after(cursor)) == [end + SECOND, end + 2 * SECOND]


@pytest.mark.parametrize("events_between", [0, 1])
def test_cleared_twice_is_a_gap_only_for_a_cursor_that_missed_an_event(events_between: int) -> None:
    log = filled(2)
    for _ in range(2):
        log.clear(log.last + 1, b"end")
        for _ in range(events_between):
            log.append(log.last + 1, frame(log.last + 1))
    seen_all_of_the_first = ids(2)[-1]
    assert log.has_gap(seen_all_of_the_first) == bool(events_between)
    assert log.has_gap(seen_all_of_the_first - 1)


def test_envelopes_take_nothing_from_retention() -> None:
    """I9: a GET doesn't shorten the retention for others; I4: its memory is counted."""
    log = filled(10, Retention(events=10, bytes=10 * len(frame(START)), seconds=3600))
    before = log.footprint
    envelopes = [log.enveloped("a", entry) for entry in log.after(0)]
    log.trim(id_seconds(log.last))
    assert entry_ids(log) == ids(10)
    assert log.footprint == before + sum(map(len, envelopes))
    log.empty()
    assert log.footprint == 0


def test_envelope_holds_the_same_event() -> None:
    log = filled(1)
    (entry,) = log.after(0)
    text = log.enveloped("a", entry)
    assert sse.split(text).id == sse.split(entry.frame).id


def test_only_events_have_an_envelope() -> None:
    log = filled(1)
    log.trim_barrier = START
    log.lose(log.last + 1)
    log.clear(log.last + 1, b"deleted")
    log.close(log.last + 1, b"closed")
    (event,) = ids(1)
    assert [log.enveloped("a", entry) for entry in log.after(0)] == [
        sse.envelope("a", frame(event), event),
        b"",
        b"deleted",
        b"closed",
    ]


# Ends


def closed(count: int, retention: Retention = FOREVER) -> Log:
    """A log of `count` events and the end of their topic."""
    log = filled(count, retention)
    log.close(log.last + 1, sse.end("a", "closed", log.last + 1))
    return log


def gaps(log: Log, cursor: EventId) -> list[tuple[EventId, str]]:
    return [(entry.id, entry.gap) for entry in log.after(cursor) if entry.gap is not None]


def test_the_end_is_never_trimmed() -> None:
    log = closed(3, Retention(events=1, bytes=1, seconds=1))
    end = log.last
    log.trim(id_seconds(end) + 100_000)
    log.empty()
    assert entry_ids(log) == [end]
    assert (log.footprint, log.visible()) == (0, (None, None, 0, 0))
    assert not log.has_gap(ids(3)[-1])
    assert log.has_gap(ids(3)[-2])


def test_a_log_that_grows_behind_its_end_is_open_again() -> None:
    log = closed(1)
    log.trim_barrier = START
    end, event = log.last, log.last + SECOND
    log.append_after(end, event, frame(event))
    assert (log.end, entry_ids(log)) == (None, [*ids(1), event])
    assert log.bytes == 2 * len(frame(event))


def test_a_loss_behind_an_end_is_remembered_until_the_topic_goes_on() -> None:
    log = closed(1)
    end, loss = log.last, log.last + SECOND
    log.lose(loss)
    assert (log.lost_at, gaps(log, 0), log.last) == (loss, [], end)
    log.reopen()
    assert (log.end, gaps(log, 0), log.last) == (None, [(loss, "lost")], loss)
    log.reopen()
    assert log.last == loss


def test_a_cursor_before_a_loss_behind_the_end_has_a_gap_after_a_delete() -> None:
    log = closed(1)
    loss = log.last + SECOND
    log.lose(loss)
    log.clear(loss + 1, b"end")
    assert log.has_gap(loss - 1)
    assert not log.has_gap(loss)


def test_subscribers_that_lack_the_end_get_it_before_that_of_the_delete() -> None:
    log = closed(2)
    log.trim_barrier = START
    end = log.last
    log.clear(end + SECOND, b"end")
    assert entry_ids(log) == [*ids(2), end, end + SECOND]
    assert log.end is None
    log.trim_barrier = None
    log.trim(id_seconds(log.last))
    assert (entry_ids(log), log.bytes) == ([], 0)
    assert not log.has_gap(ids(2)[-1])


def test_a_loss_is_a_gap_in_its_place_and_no_event() -> None:
    log = filled(2)
    loss = log.last + SECOND
    log.lose(loss)
    after = loss + SECOND
    log.append(after, frame(after))
    (lost,) = [entry for entry in log.after(0) if entry.gap]
    assert (lost.id, lost.prev, lost.frame, lost.gap) == (loss, loss, b"", "lost")
    assert entry_ids(log, log.start_before(2)) == [ids(2)[1], loss, after], (
        "two events, and the gap between them"
    )
    for cursor in ids(2):
        assert log.start_after(cursor) == cursor, "a reader that starts before it gets the gap in its place"
        assert not log.has_gap(cursor)
        assert not log.has_moved_past(cursor)


def test_a_log_of_gaps_alone_has_no_event_to_start_before() -> None:
    log = Log(START, FOREVER)
    log.lose(START + 1)
    assert log.start_before(1) == log.last


# A replica, which begins somewhere and has `prev` from its store


def test_a_replica_takes_prev_from_its_store() -> None:
    log = Log(START, FOREVER)
    event, later = START + SECOND, START + 3 * SECOND
    log.append_after(START, event, frame(event))
    log.append_gap(event + 5, "trimmed")
    log.append_after(event + 5, later, frame(later))
    assert [(entry.id, entry.prev, entry.gap, entry.end) for entry in log.after(0)] == [
        (event, START, None, False),
        (event + 5, event + 5, "trimmed", False),
        (later, event + 5, None, False),
    ]


def copied(*event_ids: EventId, data: bytes = b"x") -> list[Entry]:
    """Entries of a store's log, each right after the one a second before."""
    return [Entry(event_id, event_id - SECOND, frame(event_id, data)) for event_id in event_ids]


def test_a_replica_knows_how_far_back_it_reaches() -> None:
    first, second, third = ids(3)
    log = Log(second, FOREVER)
    assert log.reaches(0), "a log is complete unless it is said to begin somewhere"
    log.complete_from = second
    log.append(third, frame(third))
    assert (log.reaches(second), log.reaches(second - 1)) == (True, False)
    log.prepend(copied(second), first)
    assert (log.reaches(first), log.reaches(first - 1)) == (True, False)
    log.trim(id_seconds(third))
    assert log.reaches(first), "nothing was too old"
    log.trim(id_seconds(second) + FOREVER.seconds + 0.5)
    assert entry_ids(log) == [third]
    assert (log.reaches(second), log.reaches(second - 1)) == (True, False)
    log.clear(third + 1, b"end")
    assert log.reaches(0), "a newcomer is to have nothing from before a DELETE"


def test_prepended_entries_are_counted_like_the_others() -> None:
    log = filled(5, Retention(events=4, bytes=1 << 20, seconds=3600))
    log.trim(id_seconds(log.last))
    assert entry_ids(log) == ids(5)[1:]
    log.prepend(copied(ids(5)[0]), START)
    assert entry_ids(log) == ids(5)
    assert (len(log), log.bytes) == (5, 5 * len(frame(START)))


def test_a_prepended_gap_is_no_event() -> None:
    log = filled(2)
    log.prepend([*copied(START - SECOND), Entry(START, START, b"", gap="lost")], START - 2 * SECOND)
    assert entry_ids(log, log.start_before(3)) == [START - SECOND, START, *ids(2)], "three events"
    log.lose(log.last + 1)
    assert entry_ids(log, log.start_before(3)) == [START - SECOND, START, *ids(2), log.last], "still three"


@pytest.mark.parametrize("event_ids", [(), (START,)])
def test_a_replica_is_worth_remembering_once_an_event_is_prepended(
    event_ids: tuple[EventId, ...],
) -> None:
    log = Log(START, FOREVER)
    log.prepend(copied(*event_ids), START - 1)
    assert log.named == bool(event_ids)
    log.prepend([], START - 2)
    assert log.named == bool(event_ids)


def test_i2_an_event_behind_a_gap_is_not_the_only_entry() -> None:
    """A store's `prev` may name an event before the gap."""
    log = filled(1)
    (first,) = ids(1)
    gap, last = first + 5, first + 9
    log.append_gap(gap, "lost")
    log.append_after(first, last, frame(last))
    for cursor in (START, first, gap - 1):
        assert len(log.few_after(cursor, 3)) > 1
    assert [entry.id for entry in log.few_after(gap, 3)] == [last]
    assert not log.few_after(last, 3)


def test_few_entries_are_all_that_lie_after_the_cursor() -> None:
    log, event_ids = filled(6), ids(6)
    for lacking in range(6):
        found = [entry.id for entry in log.few_after(event_ids[5 - lacking], 3)]
        assert found == (event_ids[6 - lacking :] if lacking <= 3 else [])
