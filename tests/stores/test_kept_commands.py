"""Kept commands: in the order in which they expire, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.stores.redis.kept_commands import KeptCommands

MANY = 1 << 30


def test_commands_go_as_they_expire_in_any_order() -> None:
    kept = KeptCommands(MANY, MANY)
    for command, until in ("late", 30.0), ("soon", 10.0), ("between", 20.0):
        kept.add(command, until, 0)
    kept.remove_expired(20, 1)
    assert [command in kept for command in ("soon", "between", "late")] == [False, True, True]
    kept.remove_expired(20, MANY)
    assert kept.valid(20) == {"late": 30}
    assert (len(kept), kept.bytes) == (1, len("late"))


def test_a_command_is_kept_until_the_latest_time_given_with_it() -> None:
    kept = KeptCommands(MANY, MANY)
    for until in 20.0, 30.0, 10.0:
        kept.add("a", until, 0)
    assert (kept.valid(0), kept.bytes) == ({"a": 30}, 1)
    kept.remove_expired(29, MANY)
    assert "a" in kept
    kept.remove_expired(30, MANY)
    assert (len(kept), kept.bytes) == (0, 0)


def test_i4_commands_that_expire_first_make_room() -> None:
    by_number, by_bytes = KeptCommands(3, MANY), KeptCommands(MANY, 6)
    for number in range(100):
        by_number.add(f"{number:02}", number % 10, -1)
        by_bytes.add(f"{number:02}", number % 10, -1)
        assert len(by_number) <= 3
        assert by_bytes.bytes <= 6
    assert by_number.valid(-1) == by_bytes.valid(-1) == {"79": 9, "89": 9, "99": 9}
    by_bytes.add("longer than all", 99, -1)
    assert (len(by_bytes), by_bytes.bytes) == (0, 0)


def test_i4_expired_commands_go_as_fast_as_others_come() -> None:
    """Whether there are sweeps or not."""
    kept = KeptCommands(MANY, MANY)
    for number in range(10_000):
        kept.add(str(number), number + 10, number)
        assert len(kept) <= 11


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_what_has_not_expired_is_kept(calls: list[tuple[str, int, int]]) -> None:
    kept = KeptCommands(MANY, MANY)
    latest: dict[str, float] = {}
    for command, until, now in sorted(calls, key=lambda call: call[2]):
        latest[command] = max(until, latest.get(command, 0))
        kept.add(command, until, now)
        kept.remove_expired(now, 2)
        valid = {command: until for command, until in latest.items() if until > now}
        assert kept.valid(now) == valid
        assert kept.bytes == len(kept)
