"""Pages of history against a list: whatever is published, closed, deleted, trimmed and lost, paging meets each event once."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from broker import sse
from broker.events import EventId, format_id
from broker.log.log import Log
from broker.log.start import After, Since, Start
from broker.log.timeline import Timeline
from broker.node.history import Page, Reading
from broker.topics import Retention

TOPICS = ["a", "b", "c"]
BORN: EventId = 1 << 64
LARGE = 1 << 30


@dataclass
class Store:
    """Logs as a store has them, and which events it should still show."""

    born: EventId = BORN
    last_id: EventId = BORN
    timeline: Timeline = field(default_factory=Timeline)
    logs: dict[str, Log] = field(default_factory=dict)
    kept: list[tuple[str, EventId]] = field(default_factory=list)

    @property
    def received_to(self) -> EventId:
        return self.last_id

    complete_to = received_to

    def is_lost(self, cursor: EventId) -> bool:
        return False

    def log(self, topic: str) -> Log:
        return self.logs.setdefault(topic, Log(BORN, Retention(5, LARGE, 1e12), self.timeline))

    def read(self, topics: list[str], start: Start) -> Reading:
        return Reading(topics, [self.log(topic) for topic in topics], start, self)  # type: ignore[arg-type]

    def next_id(self) -> EventId:
        self.last_id += 1
        return self.last_id

    def publish(self, topic: str, size: int) -> None:
        log = self.log(topic)
        if log.end is None:
            event_id = self.next_id()
            log.append(event_id, sse.frame(sse.lines(b"x" * size), event_id))
            self.kept.append((topic, event_id))

    def close(self, topic: str) -> None:
        if self.log(topic).end is None:
            event_id = self.next_id()
            self.log(topic).close(event_id, sse.end(topic, "closed", event_id))

    def delete(self, topic: str) -> None:
        event_id = self.next_id()
        self.log(topic).clear(event_id, sse.end(topic, "deleted", event_id))
        self.kept = [one for one in self.kept if one[0] != topic]

    def trim(self, topic: str) -> None:
        log = self.log(topic)
        log.trim(0)
        first = log.visible()[0]
        self.kept = [(name, e) for name, e in self.kept if name != topic or (first and e >= first.id)]

    def lose(self, topic: str) -> None:
        """Events up to an id are missing, in the middle of the log."""
        log = self.log(topic)
        if log.end is None:
            log.append_gap(self.next_id(), "lost")

    def do(self, step: tuple[str, str, int]) -> None:
        name, topic, size = step
        if name == "publish":
            self.publish(topic, size)
        else:
            getattr(self, name)(topic)

    def among(self, topics: list[str]) -> list[tuple[str, EventId]]:
        """The kept events of these topics, oldest first."""
        return [one for one in self.kept if one[0] in topics]


def store_after(steps: list[tuple[str, str, int]]) -> Store:
    store = Store()
    for step in steps:
        store.do(step)
    return store


def ids(page: Page) -> list[tuple[str, EventId]]:
    return [(found.topic, found.entry.id) for found in page.events]


ACTIONS = st.sampled_from(["publish"] * 8 + ["close", "delete", "lose"])
STEPS = st.lists(st.tuples(ACTIONS, st.sampled_from(TOPICS), st.sampled_from([1, 10, 500])), max_size=40)
STORES = STEPS.map(store_after)
ASKED = st.lists(st.sampled_from(TOPICS), min_size=1, unique=True)
LIMITS = st.integers(1, 7)
SIZES = st.sampled_from([1, 600, LARGE])


@given(STORES, ASKED, LIMITS, SIZES)
def test_paging_forwards_meets_each_event_once(store: Store, asked: list[str], limit: int, size: int) -> None:
    expected = store.among(asked)
    seen: list[tuple[str, EventId]] = []
    start: Start = Since(0)
    for _ in range(len(expected) + 2):
        page = store.read(asked, start).after(limit, size)
        assert len(page.events) <= limit
        seen += ids(page)
        assert page.cursor == (seen[-1][1] if page.events else store.last_id)
        start = After(page.cursor, format_id(page.cursor))
        if not page.more:
            break
        assert page.events
    assert not page.more
    assert seen == expected
    assert page.closed == all(store.log(topic).end is not None for topic in asked)
    assert ids(store.read(asked, start).after(limit, size)) == []


@given(STORES, ASKED, LIMITS, SIZES)
def test_paging_backwards_meets_each_event_once(
    store: Store, asked: list[str], limit: int, size: int
) -> None:
    expected = store.among(asked)
    seen: list[tuple[str, EventId]] = []
    stop = store.last_id + 1
    for _ in range(len(expected) + 2):
        page = store.read(asked, Since(0)).before(stop, limit, size)
        assert len(page.events) <= limit
        seen = ids(page) + seen
        if not page.more:
            break
        stop = page.events[0].entry.id
    assert not page.more
    assert seen == expected


@given(STORES, STEPS, ASKED, LIMITS)
def test_events_published_between_pages_follow(
    store: Store, later: list[tuple[str, str, int]], asked: list[str], limit: int
) -> None:
    """One publish after each page."""
    seen: list[tuple[str, EventId]] = []
    start: Start = Since(0)
    left = [step for step in later if step[0] == "publish"]
    more = True
    while more or left:
        page = store.read(asked, start).after(limit, LARGE)
        seen += ids(page)
        more = page.more
        start = After(page.cursor, format_id(page.cursor))
        if left:
            store.do(left.pop())
            more = True
    assert seen == store.among(asked)


@given(STEPS.map(lambda steps: store_after([one for one in steps if one[0] != "delete"])), ASKED, LIMITS)
def test_each_gap_is_told_before_the_events_behind_it(store: Store, asked: list[str], limit: int) -> None:
    """In both directions: a page never has events on both sides of a gap, and each that has some before it tells it."""
    gaps = {
        (topic, entry.id) for topic in asked for entry in store.log(topic).after(0) if entry.gap is not None
    }
    start: Start = Since(0)
    told: set[tuple[str, str]] = set()
    more = True
    while more:
        page = store.read(asked, start).after(limit, LARGE)
        told |= {(gap.topic, gap.after) for gap in page.gaps}
        _check_page(page, {gap_id for _, gap_id in gaps})
        start, more = After(page.cursor, format_id(page.cursor)), page.more
    assert {topic for topic, _ in told} == {topic for topic, _ in gaps}
    stop, more, backwards = store.last_id + 1, True, set()
    while more:
        page = store.read(asked, Since(0)).before(stop, limit, LARGE)
        backwards |= {(gap.topic, gap.after) for gap in page.gaps}
        _check_page(page, {gap_id for _, gap_id in gaps})
        stop, more = page.events[0].entry.id if page.events else 0, page.more
    newest = max((event_id for _, event_id in store.among(asked)), default=0)
    assert {topic for topic, _ in backwards} == {topic for topic, gap_id in gaps if gap_id < newest}


def _check_page(page: Page, gap_ids: set[EventId]) -> None:
    if page.events:
        first, last = page.events[0].entry.id, page.events[-1].entry.id
        assert not any(first < gap_id < last for gap_id in gap_ids)


def test_trimmed_events_are_a_gap_for_a_cursor_only() -> None:
    store = Store()
    for _ in range(8):
        store.publish("a", 1)
    store.trim("a")
    first = BORN + 1
    page = store.read(["a"], After(first, format_id(first))).after(10, LARGE)
    assert [gap.reason for gap in page.gaps] == ["trimmed"]
    assert ids(page) == store.kept
    assert len(page.events) == 5
    assert not store.read(["a"], Since(0)).after(10, LARGE).gaps
    assert not store.read(["a"], Since(0)).before(store.last_id, 10, LARGE).gaps
