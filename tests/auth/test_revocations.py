"""Tokens that were taken back before their time."""

from __future__ import annotations

import pytest

from broker.auth import revocations
from broker.auth.grants import EVERYTHING, Grant
from broker.auth.revocations import Revocations
from broker.errors import RateLimited, Unauthorized

ANN = Grant((), ("**",), subject="ann", token_id="7", issued_at=100)


def test_nothing_is_revoked_at_first() -> None:
    Revocations().check(ANN)


def test_a_token_is_revoked_by_its_id() -> None:
    known = Revocations()
    known.revoke_token("7", at=150, until=200)
    with pytest.raises(Unauthorized) as caught:
        known.check(ANN)
    assert caught.value.error == "invalid_token"
    known.check(Grant(subject="ann", token_id="8", issued_at=100))
    known.check(Grant(subject="7"))
    known.check(EVERYTHING)


@pytest.mark.parametrize(
    ("issued_at", "concerned"), [(None, True), (100, True), (150, True), (150.5, False), (151, False)]
)
def test_a_subject_loses_all_it_was_given_so_far(issued_at: float | None, concerned: bool) -> None:
    known = Revocations()
    known.revoke_subject("ann", at=150, until=200)
    assert known.concerns(Grant(subject="ann", issued_at=issued_at)) is concerned
    assert not known.concerns(Grant(subject="bob", issued_at=issued_at))
    assert not known.concerns(Grant(token_id="ann", issued_at=issued_at))


def test_the_later_order_counts_whichever_comes_first() -> None:
    for orders in (((150, 900), (160, 800)), ((160, 800), (150, 900))):
        known = Revocations()
        for at, until in orders:
            known.revoke_subject("ann", at=at, until=until)
        assert known.concerns(Grant(subject="ann", issued_at=155))
        known.sweep(850)
        assert len(known) == 1


def test_it_is_forgotten_when_its_time_is_over() -> None:
    known = Revocations()
    known.revoke_token("7", at=150, until=200)
    known.revoke_subject("bob", at=150, until=300)
    known.sweep(199)
    assert len(known) == 2
    known.sweep(200)
    assert not known.concerns(ANN)
    assert known.concerns(Grant(subject="bob"))


def test_a_sweep_is_short_and_all_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "SWEEP_MOST", 3)
    known = Revocations()
    for number in range(10):
        known.revoke_token(str(number), at=0, until=10 if number % 2 else 100)
    known.sweep(50)
    assert len(known) == 9
    for _ in range(3):
        known.sweep(50)
    assert len(known) == 5


def test_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MOST", 2)
    known = Revocations()
    known.revoke_token("7", at=0, until=10)
    known.check_room()
    known.revoke_subject("ann", at=0, until=10)
    with pytest.raises(RateLimited):
        known.check_room()
