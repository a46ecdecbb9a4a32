"""All logs together: within their bounds, rightly counted, and never a silent gap, whatever is dropped."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker import sse
from broker.events import SEQUENCE_BITS, EventId, id_at
from broker.log.entry import ENTRY_OVERHEAD_BYTES, Entry
from broker.log.log import Log
from broker.log.table import LogTable
from broker.topics import Retention, RetentionRules

NOW = 1_763_791_200.0
EVERYTHING = 1_000_000  # more logs than any of these tests has
TOPICS = [f"t{n}" for n in range(8)]
MAX_BYTES = 6000
MAX_TOPICS = 4
MEMORY_SECONDS = 100.0
RULES = RetentionRules(
    Retention(events=6, bytes=3000, seconds=20), [("t7", Retention(events=2, bytes=500, seconds=5))]
)


def logs(
    max_bytes: int = MAX_BYTES, max_topics: int = MAX_TOPICS, memory_seconds: float = MEMORY_SECONDS
) -> LogTable:
    return LogTable(
        id_at(NOW), RULES, max_bytes=max_bytes, max_topics=max_topics, topic_memory_seconds=memory_seconds
    )


def names(logs: LogTable) -> list[str]:
    return logs.names_after("", EVERYTHING)


def append(logs: LogTable, topic: str, event_id: EventId, now: float, size: int = 10) -> Log:
    log = logs.open(topic, now)
    log.append(event_id, sse.frame(sse.lines(b"x" * size), event_id))
    logs.appended(topic, log, now)
    return log


class LogsAgainstMemory(RuleBasedStateMachine):
    """`published` has all events ever; ids increase, also when the clock steps back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.last: EventId = id_at(NOW)
        self.logs = logs()
        self.published: dict[str, list[EventId]] = {topic: [] for topic in TOPICS}
        self.published_to: dict[str, Log] = {}
        self.pins: list[str] = []
        self.deleted: set[str] = set()  # and not used since

    def next_id(self) -> EventId:
        self.last = max(id_at(self.now), self.last + 1)
        return self.last

    @rule(
        topic=st.sampled_from(TOPICS),
        size=st.sampled_from([0, 30, 300, 1500, 4000]),
        count=st.integers(1, 4),
    )
    def publish(self, topic: str, size: int, count: int) -> None:
        log = self.logs.open(topic, self.now)
        if log.end is not None:
            return  # the store refuses it
        for _ in range(count):
            event_id = self.next_id()
            log.append(event_id, sse.frame(sse.lines(b"x" * size), event_id))
            self.published[topic].append(event_id)
        self.published_to[topic] = log
        self.deleted.discard(topic)
        self.logs.appended(topic, log, self.now)
        self.within_bounds()

    @rule(topic=st.sampled_from(TOPICS))
    def close(self, topic: str) -> None:
        log = self.logs.open(topic, self.now)
        if log.end is None:
            end_id = self.next_id()
            log.close(end_id, sse.end(topic, "closed", end_id))
            self.deleted.discard(topic)
            self.logs.appended(topic, log, self.now)
            self.within_bounds()

    @rule(topic=st.sampled_from(TOPICS))
    def delete(self, topic: str) -> None:
        log = self.logs.get(topic)
        if log is not None:
            end_id = self.next_id()
            log.clear(end_id, sse.control("broker.end", {}, end_id))
            self.deleted.add(topic)
            self.logs.appended(topic, log, self.now)

    @rule(topic=st.sampled_from(TOPICS), has_barrier=st.booleans())
    def subscribe(self, topic: str, has_barrier: bool) -> None:
        log = self.logs.pin(topic, self.now)
        if has_barrier and log.trim_barrier is None:
            log.trim_barrier = log.last
        self.pins.append(topic)

    @precondition(lambda self: self.pins)
    @rule(index=st.integers(0))
    def leave(self, index: int) -> None:
        topic = self.pins.pop(index % len(self.pins))
        if topic not in self.pins:
            log = self.logs.get(topic)
            assert log is not None, "I2: a pinned log is never given up"
            log.trim_barrier = None
        assert self.logs.unpin(topic) == (topic not in self.pins)

    @precondition(lambda self: self.pins)
    @rule(index=st.integers(0))
    def written(self, index: int) -> None:
        topic = self.pins[index % len(self.pins)]
        log = self.logs.get(topic)
        assert log is not None
        if log.trim_barrier is not None:
            log.trim_barrier = log.last
        self.logs.trim(topic, log, self.now)

    @rule(topic=st.sampled_from(TOPICS))
    def read_in_the_envelope_form(self, topic: str) -> None:
        log = self.logs.get(topic)
        for entry in log.after(0) if log is not None else ():
            assert log is not None
            log.enveloped(topic, entry)

    @rule(seconds=st.sampled_from([0.001, 1, 6, 21, 101, 1000, -0.5, -30, -500]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(most=st.sampled_from([1, 3, EVERYTHING]))
    def sweep(self, most: int) -> None:
        self.logs.sweep(self.now, most)

    # What must hold

    def within_bounds(self) -> None:
        """After a publish: the bytes, except those on their way; the topics, except those with subscribers."""
        on_its_way = sum(
            len(entry.frame) + len(entry.enveloped or b"") + ENTRY_OVERHEAD_BYTES
            for topic in set(self.pins)
            if (log := self.logs.get(topic)) is not None and log.trim_barrier is not None
            for entry in log.after(log.trim_barrier)
        )
        assert self.logs.bytes <= max(MAX_BYTES, on_its_way)
        assert len(self.logs) <= MAX_TOPICS + len(set(self.pins))

    @invariant()
    def counts_what_its_logs_count(self) -> None:
        each = [log for topic in TOPICS if (log := self.logs.get(topic)) is not None]
        assert self.logs.bytes == sum(log.accounted for log in each)
        assert len(self.logs) == len(each)

    @invariant()
    def names_come_sorted_in_pages(self) -> None:
        every = names(self.logs)
        listed = [topic for topic in TOPICS if self.logs.get(topic) is not None]
        listed = [topic for topic in listed if topic in self.pins or topic not in self.deleted]
        assert every == sorted(listed)
        assert self.logs.count_names(without="t") == len([topic for topic in every if topic[0] != "t"])
        assert self.logs.count_names(without="_") == len(every)
        for after in ("", *TOPICS):
            assert self.logs.names_after(after, 3) == [name for name in every if name > after][:3]

    @invariant()
    def never_skips_silently(self) -> None:
        """I2: any cursor gets everything after it, or a gap."""
        for topic in TOPICS:
            log = self.logs.get(topic)
            if log is None:
                log = Log(self.logs.unknown_last(self.now), RULES.of(topic))
            published = self.published[topic]
            for cursor in {0, *published[-8:], *(at - 1 for at in published[-8:]), self.last}:
                have = {entry.id for entry in log.after(max(cursor, log.cleared_at)) if not entry.end}
                missed = any(at > cursor and at not in have for at in published)
                assert log.has_gap(cursor) or not missed, (topic, cursor)

    @invariant()
    def makes_no_gap_for_a_cursor_at_the_end_of_a_remembered_topic(self) -> None:
        for topic, published in self.published.items():
            log = self.logs.get(topic)
            if log is not None and log is self.published_to.get(topic):
                assert not log.has_gap(published[-1]), topic


LogsAgainstMemory.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestLogsAgainstMemory = LogsAgainstMemory.TestCase


def test_counted_bytes_are_the_sum_of_all_footprints_after_each_sweep() -> None:
    every = logs(max_bytes=1 << 20, max_topics=100)
    for n, topic in enumerate(TOPICS):
        append(every, topic, id_at(NOW) + n + 1, NOW)
        log = every.get(topic)
        assert log is not None
        for entry in log.after(0):
            log.enveloped(topic, entry)
    for _ in range(2):  # the first may be the end of the walk before
        every.sweep(NOW, EVERYTHING)
    assert every.bytes == sum(log.footprint for log in map(every.get, names(every)) if log is not None)


def test_reading_the_envelope_form_leaves_the_bytes_within_their_bound() -> None:
    """I4: envelopes take memory too, though nothing is published."""
    every = logs(max_bytes=8000, max_topics=100)
    for n in range(60):
        append(every, TOPICS[n % 7], id_at(NOW) + n + 1, NOW)
    for topic in TOPICS[:7]:
        log = every.pin(topic, NOW)
        for entry in log.after(0):
            log.enveloped(topic, entry)
        every.unpin(topic)
    for _ in range(2):
        every.sweep(NOW, EVERYTHING)
    assert every.bytes <= 8000


def test_topics_that_their_subscribers_left_are_within_their_bound() -> None:
    """I4: all leave at once, and nothing is published afterwards."""
    every = logs(max_topics=3)
    for n, topic in enumerate(TOPICS):
        every.pin(topic, NOW)
        append(every, topic, id_at(NOW) + n + 1, NOW)
    for topic in TOPICS:
        every.unpin(topic)
    every.sweep(NOW, EVERYTHING)
    assert len(every) <= 3


def test_least_recently_used_goes_first() -> None:
    every = logs(max_topics=2)
    for n, topic in enumerate(["a", "b", "a", "c"]):
        append(every, topic, id_at(NOW) + n + 1, NOW)
    assert names(every) == ["a", "c"]


def test_a_subscriber_counts_as_a_use() -> None:
    every = logs(max_topics=2)
    for n, topic in enumerate(["a", "b"]):
        append(every, topic, id_at(NOW) + n + 1, NOW)
    every.pin("a", NOW)
    every.unpin("a")
    append(every, "c", id_at(NOW) + 3, NOW)
    assert names(every) == ["a", "c"]


def test_a_topic_emptied_for_bytes_is_no_gap_for_a_cursor_that_has_seen_all() -> None:
    every = logs(max_bytes=1000)
    first = append(every, "a", id_at(NOW) + 1, NOW)
    append(every, "b", id_at(NOW) + 2, NOW, size=700)
    assert not len(first)
    assert first.has_gap(id_at(NOW))
    assert not first.has_gap(id_at(NOW) + 1)


def fill_idle_and_busy(every: LogTable) -> tuple[Log, Log]:
    """Two logs with all that their retention allows; the subscribers of `busy` are up to date."""
    for n in range(6):
        idle = append(every, "idle", id_at(NOW) + n, NOW)
        busy = append(every, "busy", id_at(NOW) + 10 + n, NOW)
    busy.trim_barrier = busy.last
    return idle, busy


def test_no_topic_is_emptied_for_bytes_of_another_that_its_retention_no_longer_covers() -> None:
    sample = logs()
    fill_idle_and_busy(sample)
    every = logs(max_bytes=sample.bytes)
    idle, busy = fill_idle_and_busy(every)
    append(every, "busy", id_at(NOW) + 20, NOW)
    assert (len(idle), len(busy)) == (6, 6)


@pytest.mark.parametrize("grows", ["append", "filled"])
def test_no_topic_is_emptied_for_bytes_of_any_other_that_retention_no_longer_covers(grows: str) -> None:
    """Of several busy topics with events on their way, each has one event more than its retention."""

    def fill(every: LogTable) -> list[Log]:
        idle = append(every, "idle", id_at(NOW), NOW)
        busy = []
        for topic in TOPICS[:5]:
            for n in range(7):
                log = append(every, topic, every.newest + 1, NOW)
                log.trim_barrier = log.last - 1 if n == 5 else log.trim_barrier
            log.trim_barrier = log.last
            busy.append(log)
        return [idle, *busy]

    sample = logs(max_topics=9, max_bytes=1_000_000)
    fill(sample)
    every = logs(max_topics=9, max_bytes=sample.bytes)
    idle, *busy = fill(every)
    if grows == "append":
        append(every, "t6", every.newest + 1, NOW, size=300)
    else:
        log = every.open("t6", NOW)
        frame = sse.frame(sse.lines(b"x"), log.last)
        log.prepend([Entry(log.last, log.last - 1, frame)], 0)
        every.filled("t6", log, NOW)
    assert (len(idle), min(map(len, busy))) == (1, 6)
    assert every.bytes <= sample.bytes


def test_a_topic_dropped_for_number_is_a_gap_for_all_earlier_cursors() -> None:
    every = logs(max_topics=1)
    append(every, "a", id_at(NOW) + 5, NOW)
    append(every, "b", id_at(NOW) + 9, NOW)
    again = every.open("a", NOW)
    assert again.has_gap(id_at(NOW) + 4)
    assert not again.has_gap(id_at(NOW) + 5)


def test_a_topic_forgotten_for_its_age_is_a_gap_also_if_the_clock_steps_back() -> None:
    every = logs(memory_seconds=100)
    append(every, "a", id_at(NOW) + 5, NOW)
    every.sweep(NOW + 101, EVERYTHING)
    assert "a" not in names(every)
    for now in (NOW + 101, NOW):
        assert every.open("a", now).has_gap(id_at(NOW) + 4)
        every.pin("a", now)
        every.unpin("a")


def test_a_cursor_at_the_newest_event_of_all_has_missed_nothing_of_a_forgotten_topic() -> None:
    every = logs(memory_seconds=100)
    append(every, "a", id_at(NOW) + 4, NOW)
    append(every, "b", id_at(NOW) + 5, NOW)
    every.sweep(NOW + 1000, EVERYTHING)
    assert not names(every)
    for topic in ("a", "b", "c"):
        assert not every.open(topic, NOW + 1000).has_gap(id_at(NOW) + 5)


def test_a_retention_override_applies_to_its_topics() -> None:
    every = logs(max_bytes=1 << 20, max_topics=100)
    for n in range(10):
        for topic in ("t6", "t7"):
            append(every, topic, (id_at(NOW) >> SEQUENCE_BITS) + n + 1 << SEQUENCE_BITS, NOW)
    six, seven = every.get("t6"), every.get("t7")
    assert six is not None
    assert seven is not None
    assert (len(six), len(seven)) == (6, 2)


class CountedName(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other: str) -> bool:
        CountedName.compared += 1
        return super().__lt__(other)

    def __gt__(self, other: str) -> bool:
        CountedName.compared += 1
        return super().__gt__(other)


def test_a_page_of_names_visits_only_its_own() -> None:
    every = logs(max_bytes=1 << 30, max_topics=EVERYTHING)
    for n in range(5000):
        append(every, CountedName(f"t{n:04}"), id_at(NOW) + n + 1, NOW)
    CountedName.compared = 0
    assert every.names_after("t2499", 3) == ["t2500", "t2501", "t2502"]
    assert CountedName.compared < 100


def test_ends_are_not_counted_and_go_with_their_records() -> None:
    every = logs(max_bytes=1000, max_topics=5)
    for n, topic in enumerate(TOPICS):
        append(every, topic, id_at(NOW) + 10 * n, NOW)
        log = every.open(topic, NOW)
        log.close(log.last + 1, b"x" * 900)
        every.appended(topic, log, NOW)
    assert every.bytes <= 1000
    assert names(every) == TOPICS[-5:]
    assert all(log is not None and log.end is not None for log in map(every.get, TOPICS[-5:]))
    assert every.floor >= id_at(NOW) + 10 * (len(TOPICS) - 6) + 1
