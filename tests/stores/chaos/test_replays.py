"""The check of replays finds differences, missing events and invented ones."""

from __future__ import annotations

from tests.stores.chaos.ledger import Ledger, Loss, Span
from tests.stores.chaos.replays import check_replays

KEPT = 2


def ledger_of(*names: str) -> Ledger:
    """Events of the topic a, acknowledged at 1, 2, … with the ids 1, 2, …"""
    ledger = Ledger(KEPT)
    for number, name in enumerate(names, 1):
        ledger.acknowledge(ledger.send("a", name, number), number, number)
    return ledger


def test_equal_and_complete_replays_pass() -> None:
    ledger = ledger_of("1", "2", "3")
    assert check_replays("a", [{2: "2", 3: "3"}, {2: "2", 3: "3"}], ledger, 0) == []


def test_an_instance_that_replays_nothing_is_found() -> None:
    assert len(check_replays("a", [{1: "1"}, None], ledger_of("1"), 0)) == 1


def test_instances_that_differ_are_found() -> None:
    ledger = ledger_of("1", "2", "3")
    assert len(check_replays("a", [{2: "2", 3: "3"}, {1: "1", 2: "2", 3: "3"}], ledger, 0)) == 1


def test_instances_may_differ_in_what_the_store_has_lost() -> None:
    ledger = ledger_of("1", "2", "3", "4")
    ledger.losses.append(Loss(2, 2.5))
    assert check_replays("a", [{2: "2", 3: "3", 4: "4"}, {3: "3", 4: "4"}], ledger, 0) == []
    assert len(check_replays("a", [{2: "2", 3: "3"}, {3: "3", 4: "4"}], ledger, 9)) == 1


def test_an_event_that_must_be_kept_is_missed() -> None:
    ledger = ledger_of("1", "2", "3")
    assert len(check_replays("a", [{3: "3"}], ledger, 0)) == 1


def test_what_was_deleted_or_may_be_lost_is_not_missed() -> None:
    ledger = ledger_of("1", "2", "3")
    ledger.deletions["a"].append(Span(2, 2))
    assert check_replays("a", [{3: "3"}], ledger, 0) == []
    ledger = ledger_of("1", "2", "3")
    ledger.losses.append(Loss(2, 2.5))
    assert check_replays("a", [{3: "3"}], ledger, 0) == []


def test_an_event_under_the_id_of_another_is_found() -> None:
    assert len(check_replays("a", [{1: "1", 2: "other"}], ledger_of("1", "2"), 5)) == 1
