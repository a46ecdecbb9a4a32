"""Revocations: tokens refused before they expire."""

from __future__ import annotations

import pytest

from broker.auth import revocations as module
from broker.auth.grants import FULL_ACCESS, Grant
from broker.auth.revocations import Revocations
from broker.errors import RateLimited, Unauthorized

NOW = 160.0
ANN = Grant((), ("**",), subject="ann", token_id="7", issued_at=100)


def test_nothing_is_revoked_at_first() -> None:
    Revocations().check(ANN, NOW)


def test_a_token_is_revoked_by_its_id() -> None:
    revocations = Revocations()
    revocations.revoke_token("7", at=150, until=200)
    with pytest.raises(Unauthorized) as caught:
        revocations.check(ANN, NOW)
    assert caught.value.error == "invalid_token"
    revocations.check(Grant(subject="ann", token_id="8", issued_at=100), NOW)
    revocations.check(Grant(subject="7"), NOW)
    revocations.check(FULL_ACCESS, NOW)


@pytest.mark.parametrize(
    ("issued_at", "revoked"), [(None, True), (100, True), (150, True), (150.5, False), (151, False)]
)
def test_a_subjects_tokens_up_to_now_are_revoked(issued_at: float | None, revoked: bool) -> None:
    revocations = Revocations()
    revocations.revoke_subject("ann", at=150, until=200)
    assert revocations.is_revoked(Grant(subject="ann", issued_at=issued_at), NOW) is revoked
    assert not revocations.is_revoked(Grant(subject="bob", issued_at=issued_at), NOW)
    assert not revocations.is_revoked(Grant(token_id="ann", issued_at=issued_at), NOW)


def test_a_token_from_the_future_is_revoked_with_its_subject() -> None:
    """It may have been issued before the revocation, by a clock that is ahead."""
    revocations = Revocations()
    future = Grant(subject="ann", issued_at=1000)
    assert not revocations.is_revoked(future, NOW)
    revocations.revoke_subject("ann", at=150, until=5000)
    assert revocations.is_revoked(future, NOW)
    assert revocations.is_revoked(future, 1001), "it stays refused when its time comes"
    assert not revocations.is_revoked(Grant(subject="ann", issued_at=1001), 1001)
    assert not revocations.is_revoked(Grant(subject="ann", issued_at=NOW + 59), NOW), (
        "a clock may be ahead a little"
    )
    assert not revocations.is_revoked(Grant(subject="bob", issued_at=1000), NOW)
    revocations.sweep(5000)
    assert not revocations.is_revoked(future, NOW)


def test_the_number_of_remembered_tokens_from_the_future_is_limited() -> None:
    revocations = Revocations()
    revocations.revoke_subject("ann", at=150, until=5000)
    for number in range(100):
        assert revocations.is_revoked(Grant(subject="ann", issued_at=1000 + number), NOW)
    assert sum(map(len, revocations._early.values())) == module.MAX_EARLY_TOKENS


def test_the_later_revocation_counts_in_any_order() -> None:
    for orders in (((150, 900), (160, 800)), ((160, 800), (150, 900))):
        revocations = Revocations()
        for at, until in orders:
            revocations.revoke_subject("ann", at=at, until=until)
        assert revocations.is_revoked(Grant(subject="ann", issued_at=155), NOW)
        revocations.sweep(850)
        assert len(revocations) == 1


def test_an_expired_revocation_is_forgotten() -> None:
    revocations = Revocations()
    revocations.revoke_token("7", at=150, until=200)
    revocations.revoke_subject("bob", at=150, until=300)
    revocations.sweep(199)
    assert len(revocations) == 2
    revocations.sweep(200)
    assert not revocations.is_revoked(ANN, NOW)
    assert revocations.is_revoked(Grant(subject="bob"), NOW)


def test_a_sweep_is_short_and_the_next_one_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_BATCH", 3)
    revocations = Revocations()
    for number in range(10):
        revocations.revoke_token(str(number), at=0, until=10 if number % 2 else 100)
    revocations.sweep(50)
    assert len(revocations) == 9
    for _ in range(3):
        revocations.sweep(50)
    assert len(revocations) == 5


def test_the_number_of_revocations_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REVOCATIONS", 2)
    revocations = Revocations()
    revocations.revoke_token("7", at=0, until=10)
    revocations.check_room("ann")
    revocations.revoke_subject("ann", at=0, until=10)
    with pytest.raises(RateLimited):
        revocations.check_room("ann")


def test_nothing_is_forgotten_while_the_clock_is_wrong() -> None:
    revocations = Revocations()
    revocations.revoke_token("7", at=150, until=5000)
    for now in (NOW, NOW + 1e9, NOW + 1e9 + 1, NOW + 2, NOW + 3):
        revocations.sweep(now)
        with pytest.raises(Unauthorized):
            revocations.check(ANN, now)
    revocations.sweep(4000)
    revocations.sweep(5001)
    assert len(revocations) == 1, "it leapt by more than an hour"
    for now in range(5001, 9000, 1000):
        revocations.sweep(now)
    assert len(revocations) == 0


def test_i4_the_names_in_revocations_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAME_BYTES", 100, raising=False)
    revocations = Revocations()
    for number in range(9):
        for _ in range(3):  # a name counts once
            revocations.check_room(f"{number}" * 10)
            revocations.revoke_token(f"{number}" * 10, at=0, until=10)
    revocations.check_room("x" * 10)
    for name in ("x" * 11, "é" * 3):
        with pytest.raises(RateLimited):
            revocations.check_room(name)
    revocations.revoke_subject("ann", at=0, until=10)
    with pytest.raises(RateLimited):
        revocations.check_room("x" * 8)
    revocations.sweep(9)
    assert revocations.bytes == 93
    revocations.sweep(10)
    assert revocations.bytes == 0
    revocations.check_room("x" * 100)
