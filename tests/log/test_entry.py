"""Gaps between entries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.log.entry import Entry, with_gaps


def event(event_id: int, prev: int) -> Entry:
    return Entry(event_id, prev, b"x")


def gap(event_id: int) -> Entry:
    return Entry(event_id, event_id, b"", gap="lost")


@pytest.mark.parametrize(
    ("entries", "joint", "losses", "expected"),
    [
        ([], 9, [], []),
        ([event(5, 0), event(7, 5)], 7, [], [5, 7]),
        ([event(5, 0), event(7, 5)], 8, [], [5, 7, (8, "trimmed")]),
        ([event(5, 0), event(9, 7)], 9, [], [5, (7, "trimmed"), 9]),
        ([event(5, 0), event(9, 7)], 9, [7], [5, (7, "trimmed"), 9]),
        ([event(5, 0), event(9, 7)], 9, [8], [5, (7, "lost"), 9]),
        ([event(5, 0), event(9, 7)], 9, [6, 10], [5, (7, "lost"), 9]),
        ([event(5, 0)], 7, [8], [5, (7, "lost")]),
        ([event(5, 0), gap(6), event(9, 6)], 9, [], [5, (6, "lost"), 9]),
        ([event(5, 3)], 4, [9], [5]),
    ],
)
def test_there_is_a_gap_wherever_entries_do_not_join(
    entries: Sequence[Entry], joint: int, losses: Sequence[int], expected: Sequence[int | tuple[int, str]]
) -> None:
    made = with_gaps(entries, joint, losses)
    assert [(each.id, each.gap) if each.gap else each.id for each in made] == expected
    assert all(each.prev == each.id and not each.frame for each in made if each.gap)
