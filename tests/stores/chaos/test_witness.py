"""The check of subscribers: each test plants one fault in a stream, or shows that a correct stream passes."""

from __future__ import annotations

import json

import pytest

from broker.events import Event, format_id
from tests.stores.chaos.ledger import Attempt, Ledger, Loss, Span
from tests.stores.chaos.witness import Witness

KEPT = 3


class Story:
    """One subscriber of the topics a and b, and a store that publishes an event a second.

    Args:
        topics: other topics.
        published, delivered: the names of the events that the story begins with, separated by spaces.
    """

    def __init__(self, *topics: str, published: str = "", delivered: str = "") -> None:
        self.ledger = Ledger(KEPT)
        self.witness = Witness("w", topics or ("a", "b"), self.ledger)
        self.now = 0.0
        self.ids: dict[str, int] = {}
        self.stored: set[int] = set()
        self.witness.connect(0)
        self.tell("open", {"topics": list(self.witness.topics)}, text(0))
        self.publish(*published.split())
        self.deliver(*delivered.split())

    def publish(self, *names: str, acknowledged: bool = True) -> None:
        """Events; the first letter of a name is the topic."""
        for name in names:
            self.now += 1
            attempt = self.ledger.send(name[0], name, self.now)
            self.ids[name] = id_of(int(self.now))
            if acknowledged:
                self.ledger.acknowledge(attempt, self.ids[name], self.now)

    def deliver(self, *names: str) -> None:
        for name in names:
            self.witness.receive(Event(name, None, format_id(self.ids[name])), self.now)

    def gap(self, topic: str, after: str, reason: str = "trimmed") -> None:
        self.tell("gap", {"topic": topic, "after": format_id(self.ids[after]), "reason": reason})

    def tell(self, kind: str, value: dict[str, object], event_id: str = "") -> None:
        self.now += 0.1
        self.witness.receive(Event(json.dumps(value), f"broker.{kind}", event_id), self.now)

    def lose(self, *, is_silent: bool = False, spares_acknowledged: bool = False) -> None:
        self.ledger.losses.append(Loss(self.now, self.now + 0.1, is_silent, spares_acknowledged))
        self.now += 0.2

    def reconnect(self) -> None:
        self.witness.connect(self.now)

    def faults(self) -> list[str]:
        """All faults that the check finds."""
        self.witness.check(self.stored)
        return [*self.ledger.violations, *self.witness.missing()]


def id_of(seconds: int) -> int:
    return seconds << 64


def text(seconds: int) -> str:
    return format_id(id_of(seconds))


def test_an_honest_stream_passes() -> None:
    story = Story(published="a1 b1 a2", delivered="a1 b1")
    story.reconnect()
    story.deliver("a2")
    assert story.faults() == []


def test_a_second_open_without_an_id_follows_the_end_of_a_closed_topic() -> None:
    """The decoder then names the id of the end."""
    story = Story()
    story.witness.cursor = ""
    story.reconnect()
    story.tell("open", {"topics": ["a", "b"]})
    story.tell("end", {"topic": "a", "reason": "closed"}, text(3))
    story.tell("open", {"topics": ["b"]}, text(3))
    assert story.faults() == []


def test_a_lost_event_is_found() -> None:
    story = Story()
    story.publish("a1", "a2", "a3")
    story.deliver("a1", "a3")
    (fault,) = story.faults()
    assert "a2" in fault


def test_an_event_that_never_comes_is_found() -> None:
    story = Story(published="a1 b1", delivered="a1")
    assert len(story.faults()) == 1


def test_an_event_that_only_another_subscriber_got_is_found() -> None:
    story = Story()
    story.publish("a1", acknowledged=False)
    other = Witness("other", ["a"], story.ledger)
    other.receive(Event("a1", None, format_id(story.ids["a1"])), story.now)
    assert len(story.faults()) == 1


def test_a_double_is_found_on_one_connection_and_on_the_next() -> None:
    for reconnects in (False, True):
        story = Story()
        story.publish("a1", "a2")
        story.deliver("a1", "a2")
        if reconnects:
            story.reconnect()
        story.deliver("a2")
        assert any("twice" in fault for fault in story.faults())


def test_a_double_under_another_id_is_found_unless_the_store_lost_events() -> None:
    for is_lossy in (False, True):
        story = Story(published="a1", delivered="a1")
        if is_lossy:
            story.lose()
        story.ids["a1"] = id_of(9)
        story.deliver("a1")
        assert any("twice" in fault for fault in story.faults()) is not is_lossy


def test_disorder_is_found() -> None:
    story = Story()
    story.publish("a1", "b1")
    story.deliver("b1", "a1")
    assert any("(I1)" in fault for fault in story.faults())


def test_an_id_at_or_before_the_cursor_that_was_sent_is_found() -> None:
    story = Story()
    story.publish("a1", "a2")
    story.deliver("a1", "a2")
    story.reconnect()
    story.publish("b1")
    story.ids["b1"] = id_of(1)
    story.deliver("b1")
    assert any("(I1)" in fault for fault in story.faults())


def test_an_invented_event_is_found() -> None:
    story = Story()
    story.ids["a9"] = id_of(9)
    story.deliver("a9")
    assert any("never published" in fault for fault in story.faults())


def test_an_event_of_another_topic_is_found() -> None:
    story = Story("a")
    story.publish("b1")
    story.deliver("b1")
    assert any("never published" in fault for fault in story.faults())


def test_one_id_for_two_events_is_found() -> None:
    story = Story()
    story.publish("a1")
    attempt = story.ledger.send("b", "b1", story.now)
    story.ledger.acknowledge(attempt, story.ids["a1"], story.now)
    assert any("two events" in fault for fault in story.faults())


def test_an_id_that_does_not_increase_over_acknowledgements_is_found() -> None:
    ledger = Ledger(KEPT)
    ledger.acknowledge(ledger.send("a", "1", 1), id_of(5), 1)
    ledger.acknowledge(ledger.send("b", "2", 2), id_of(4), 2, above=ledger.highest_acknowledged)
    assert len(ledger.violations) == 1


def test_two_answers_for_one_key_are_found_unless_the_store_lost_events() -> None:
    for is_lossy in (False, True):
        ledger = Ledger(KEPT)
        attempt = ledger.send("a", "1", 1)
        ledger.acknowledge(attempt, id_of(5), 1)
        if is_lossy:
            ledger.losses.append(Loss(2, 3))
        ledger.acknowledge(attempt, id_of(6), 4)
        assert len(ledger.violations) == (not is_lossy)


def test_a_true_gap_covers_what_was_trimmed() -> None:
    story = Story(published="a1 a2 a3 a4 a5", delivered="a1")
    story.gap("a", after="a1")
    story.deliver("a3", "a4", "a5")
    assert story.faults() == []


def test_a_gap_of_another_topic_covers_nothing() -> None:
    story = Story()
    story.publish("b1", "a1", "a2", "a3", "a4", "a5")
    story.deliver("b1", "a1")
    story.gap("b", after="a1")
    story.deliver("a3", "a4", "a5")
    assert any("a2" in fault for fault in story.faults())


def test_a_gap_after_the_reader_crossed_the_hole_covers_nothing() -> None:
    story = Story(published="a1 a2 b1 a3 a4 a5", delivered="a1 b1")
    story.gap("a", after="b1")
    story.deliver("a3", "a4", "a5")
    assert any("a2" in fault for fault in story.faults())


def test_a_gap_in_the_middle_of_a_hole_covers_all_of_it() -> None:
    story = Story(published="a1 a2 b1 a3 a4 a5 a6", delivered="a1 b1")
    story.gap("a", after="b1")
    story.deliver("a4", "a5", "a6")
    assert story.faults() == []


def test_a_gap_does_not_cover_what_an_earlier_connection_crossed() -> None:
    story = Story(published="a1 a2 b1 a3 a4 a5 a6", delivered="a1 b1")
    story.reconnect()
    story.gap("a", after="b1")
    story.deliver("a4", "a5", "a6")
    (fault,) = story.faults()
    assert "a2" in fault


def test_a_gap_does_not_cover_what_is_published_after_it() -> None:
    story = Story(published="a1 a2 a3 a4 a5", delivered="a1")
    story.gap("a", after="a1")
    story.publish("a6")
    assert any("a6" in fault for fault in story.faults())


def test_a_gap_over_kept_events_is_found() -> None:
    story = Story(published="a1 a2 a3 a4", delivered="a1")
    story.gap("a", after="a1")
    assert any("still kept" in fault for fault in story.faults())


def test_a_gap_over_deleted_events_is_right() -> None:
    story = Story(published="a1 a2", delivered="a1")
    story.ledger.deletions["a"].append(Span(story.now, story.now))
    story.gap("a", after="a1")
    assert story.faults() == []


def test_a_gap_without_anything_missing_is_found() -> None:
    story = Story()
    story.publish("a1", "a2")
    story.deliver("a1", "a2")
    story.gap("a", after="a2")
    assert any("nothing is missing" in fault for fault in story.faults())


@pytest.mark.parametrize("reason", ["lost", "unknown-id", "whatever"])
def test_a_gap_with_a_wrong_reason_is_found(reason: str) -> None:
    story = Story(published="a1 a2", delivered="a1")
    story.gap("a", after="a1", reason=reason)
    assert len(story.ledger.violations) == 1


def test_lost_events_must_make_a_gap() -> None:
    for tells in (False, True):
        story = Story(published="a1 a2", delivered="a1")
        story.lose()
        if tells:
            story.gap("a", after="a1", reason="lost")
        assert len(story.faults()) == (not tells)


def test_a_loss_without_a_gap_is_counted() -> None:
    story = Story()
    story.publish("a1")
    story.lose(is_silent=True)
    assert story.faults() == []
    story.witness.settle()
    assert story.ledger.counts["lost, not reported"] == 1


def test_a_failover_that_may_not_lose_acknowledged_events_is_held_to_it() -> None:
    story = Story()
    story.publish("a1")
    story.lose(spares_acknowledged=True)
    story.gap("a", after="a1", reason="lost")
    assert any("a1" in fault for fault in story.faults())


def test_a_loss_with_a_late_gap_is_counted() -> None:
    story = Story(published="a1 a2", delivered="a1")
    story.lose()
    story.publish("a3")
    story.deliver("a3")
    story.gap("a", after="a3", reason="lost")
    assert story.faults() == []
    story.witness.settle()
    assert story.ledger.counts["lost, reported late"] == 1


def test_an_event_that_the_store_still_has_was_not_lost() -> None:
    for is_stored in (False, True):
        story = Story(published="a1 a2", delivered="a1")
        story.lose()
        story.publish("a3")
        story.deliver("a3")
        story.gap("a", after="a3", reason="lost")
        assert story.faults() == []
        story.stored = {story.ids["a2"]} if is_stored else set()
        assert bool(story.faults()) is is_stored


def test_an_event_that_was_on_its_way_after_a_loss_needs_no_excuse() -> None:
    story = Story()
    story.publish("a1")
    story.lose()
    story.gap("a", after="a1", reason="lost")
    story.deliver("a1")
    story.publish("a2")
    story.ledger.losses[0].ended_at = story.now
    assert story.witness.missing() == []
    story.deliver("a2")
    story.stored = {story.ids["a2"]}
    assert story.witness.missing() == []
    assert story.faults() == []


def test_a_gap_over_an_event_that_the_store_has_is_found() -> None:
    story = Story(published="a1 a2 a3 a4 a5 a6", delivered="a1")
    story.gap("a", after="a1")
    story.deliver("a3", "a4", "a5", "a6")
    story.stored = {story.ids["a2"]}
    assert any("which the store has" in fault for fault in story.faults())


def test_an_event_after_the_end_is_found() -> None:
    story = Story(published="a1 a2", delivered="a1")
    story.tell("end", {"topic": "a", "reason": "closed"}, f"{format_id(story.ids['a1'])[:-1]}1")
    story.deliver("a2")
    assert any("after the end" in fault for fault in story.faults())


def test_a_topic_that_has_ended_on_a_connection_is_left_out_of_it_and_not_of_the_next() -> None:
    story = Story(published="a1", delivered="a1")
    story.tell("end", {"topic": "a", "reason": "deleted"}, f"{format_id(story.ids['a1'])[:-1]}1")
    story.publish("a2", "b1")
    story.deliver("b1")
    assert story.faults() == []
    story.reconnect()
    story.publish("a3")
    (fault,) = story.faults()
    assert "a3" in fault


def test_an_end_is_due_unless_the_connection_left_the_topic_out() -> None:
    """A topic closes, is deleted, and closes again. A subscriber that has seen the first end gets a stream without it."""
    story = Story()
    story.publish("a1", "b1")
    assert not story.witness.has_received_end("a", story.ids["a1"])
    story.tell("end", {"topic": "a", "reason": "closed"}, text(3))
    assert story.witness.has_received_end("a", story.ids["a1"])
    story.now = 10
    story.publish("a2", "b2")
    assert not story.witness.has_received_end("a", story.ids["a2"])
    story.reconnect()
    story.deliver("b2")
    assert story.witness.has_received_end("a", story.ids["a2"])


def test_a_refusal_without_a_closing_is_found() -> None:
    for is_closed in (False, True):
        ledger = Ledger(KEPT)
        if is_closed:
            ledger.closings["a"].append(Span(0))
        ledger.refuse(ledger.send("a", "1", 1), 2)
        assert len(ledger.violations) == (not is_closed)


def test_a_loss_may_undo_a_deletion() -> None:
    for at, is_fault in ((2, False), (200, True)):
        ledger = Ledger(KEPT)
        ledger.losses.append(Loss(1, 1))
        ledger.refuse(ledger.send("a", "1", at), at + 1)
        assert bool(ledger.violations) is is_fault


def test_settled_events_are_forgotten() -> None:
    story = Story(published="a1", delivered="a1")
    story.witness.settle()
    story.ledger.forget(story.now + 1)
    assert not story.ledger.attempts and not story.ledger.data_of and not story.ledger.by_topic["a"]
    story.publish("a2")
    assert len(story.faults()) == 1


def test_an_event_without_an_answer_is_never_forgotten() -> None:
    ledger = Ledger(KEPT)
    attempt: Attempt = ledger.send("a", "1", 1)
    ledger.forget(5)
    assert ledger.attempts == {"1": attempt}
