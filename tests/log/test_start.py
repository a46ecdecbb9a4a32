"""Every kind of start: how it is read from a request, and where in the logs it begins, with which gaps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import sse
from broker.errors import InvalidParameter
from broker.events import EventId, format_id, id_at, id_seconds
from broker.log.log import Log
from broker.log.start import (
    After,
    Last,
    Latest,
    Malformed,
    Position,
    Since,
    Start,
    StoreState,
    from_cursor,
    from_last,
    from_since,
    has_seen_all,
    position,
)
from broker.topics import Retention
from tests.support.store_state import StateValue

NOW = 1_763_791_200.0
BORN = id_at(NOW - 1000)
KEEP_ALL = Retention(events=1000, bytes=1 << 20, seconds=1e9)
BAD_CURSORS = ["x", "1", "1-", "1-2-3", "latest", " 1-1", "9" * 21 + "-0", "\ud800", "a\nb", "x" * 8000]
BAD_SINCE = (
    "|x|now|-5s|5|5 s|5d|1.5h|1111111111s|s|2025-11-22|2025-11-22T06:00:00|06:00:00Z|T|1-2-3|%FF|earliest\n"
)
NO_TIMES = ["2025-13-22T06:00:00Z", "2025-11-22T25:00:00Z", "2025-11-22T06:00:00+25:00", "\ud800T"]


def id_of(seconds: float) -> EventId:
    """The id of an event published `seconds` after `NOW`."""
    return id_at(NOW + seconds)


def log_of(*times: float, last: EventId = BORN, keep: int = 1000) -> Log:
    """A log with events at these seconds after `NOW`, of which the newest `keep` are kept."""
    log = Log(last, Retention(events=keep, bytes=1 << 20, seconds=1e9))
    for time in times:
        log.append(id_of(time), sse.frame(sse.lines(b"x"), id_of(time)))
    log.trim(NOW)
    return log


def at(start: Start, *logs: Log, last_id: EventId | None = None) -> Position:
    """Where `start` begins in `logs`, those of the topics a, b, …"""
    last = max(log.last for log in logs) if last_id is None else last_id
    topics = "abcdefgh"[: len(logs)]
    return position(start, topics, logs, StateValue(BORN, last, last))


def told(where: Position) -> list[tuple[str | None, dict[str, object], str]]:
    """The control events before everything else: type, data, id."""
    return [(event.type, json.loads(event.data), event.id) for event in sse.Decoder().feed(where.preface)]


def after(seconds: float) -> After:
    return After(id_of(seconds), format_id(id_of(seconds)))


def delivered(where: Position, *logs: Log) -> list[EventId]:
    """What a subscriber at `where` gets of `logs`."""
    floors = where.floors or (where.cursor,) * len(logs)
    return sorted(
        entry.id
        for log, floor in zip(logs, floors, strict=True)
        for entry in log.after(max(floor, where.cursor))
    )


# Read from words


@pytest.mark.parametrize("text", BAD_CURSORS)
def test_bad_cursor_is_malformed_and_never_an_error(text: str) -> None:
    assert from_cursor(text) == Malformed(text[:128])


def test_a_cursor_is_an_id_and_keeps_its_text() -> None:
    assert from_cursor("5-7") == After(5 << 64 | 7, "5-7")


@given(st.text())
def test_any_cursor_is_understood(text: str) -> None:
    assert isinstance(from_cursor(text), After | Malformed)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", Latest()),
        ("earliest", Since(0)),
        ("5-7", After(5 << 64 | 7, "5-7")),
        ("90s", Since(NOW - 90)),
        ("10m", Since(NOW - 600)),
        ("2h", Since(NOW - 7200)),
        ("0s", Since(NOW)),
        ("999999999h", Since(NOW - 999_999_999 * 3600)),
        ("2025-11-22T06:00:00Z", Since(NOW)),
        ("2025-11-22t06:00:00z", Since(NOW)),
        ("2025-11-22T07:00:00+01:00", Since(NOW)),
        ("2025-11-22T07:00:00 01:00", Since(NOW)),
        ("2025-11-22T05:30:00-00:30", Since(NOW)),
        ("2025-11-22T06:00:00.250Z", Since(NOW + 0.25)),
        ("0001-01-01T00:00:00+23:59", Since(-62_135_683_140.0)),
        ("9999-12-31T23:59:59-23:59", Since(253_402_387_139.0)),
    ],
)
def test_since(text: str, start: Start) -> None:
    assert from_since(text, NOW) == start


@pytest.mark.parametrize("text", [*BAD_SINCE.split("|"), *NO_TIMES])
def test_bad_since(text: str) -> None:
    with pytest.raises(InvalidParameter, match="'since'"):
        from_since(text, NOW)


@given(
    st.text() | st.from_regex(r"\d{1,5}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[ +-]\d\d:\d\d)?")
)
def test_any_since_is_a_start_or_a_bad_parameter(text: str) -> None:
    try:
        start = from_since(text, NOW)
    except InvalidParameter:
        return
    where = at(start, log_of(-5, -3))
    assert BORN <= where.cursor <= id_of(-3), "a position is never ahead of the store (I2)"


@pytest.mark.parametrize(
    ("text", "start"), [("0", Latest()), ("1", Last(1)), ("1000000", Last(1_000_000)), ("007", Last(7))]
)
def test_last(text: str, start: Start) -> None:
    assert from_last(text) == start


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "1.0", " 1", "1000001", "00000001", "9" * 5000, "٣", "1\n", "+1"]
)
def test_bad_last(text: str) -> None:
    with pytest.raises(InvalidParameter, match="'last'"):
        from_last(text)


# Read from the logs


def test_latest_opens_at_the_stores_last_id_which_may_be_another_topics() -> None:
    last = id_of(9)
    where = at(Latest(), log_of(1, 2), log_of(3), last_id=last)
    assert (where.cursor, where.floors, where.gaps) == (last, (), ())
    assert told(where) == [("broker.open", {"topics": ["a", "b"]}, format_id(last))]


def test_after_an_event() -> None:
    log = log_of(1, 2, 3)
    where = at(after(1), log)
    assert delivered(where, log) == [id_of(2), id_of(3)]
    assert (where.preface, where.gaps) == (b"", ())


def test_after_everything_though_all_of_it_is_trimmed() -> None:
    log = log_of(1, 2)
    log.empty()
    assert at(after(2), log).gaps == ()
    assert at(after(2), log).cursor == id_of(2)


def test_after_an_event_that_is_trimmed() -> None:
    log = log_of(1, 2, 3, 4, keep=2)
    where = at(after(1), log)
    assert told(where) == [
        ("broker.gap", {"topic": "a", "after": format_id(id_of(1)), "reason": "trimmed"}, "")
    ]
    assert delivered(where, log) == [id_of(3), id_of(4)]
    assert at(after(2), log).gaps == ()


def test_after_something_from_before_the_store_was_born() -> None:
    log = log_of(1)
    where = at(after(-2000), log)
    assert where.gaps == ("lost",)
    assert delivered(where, log) == [id_of(1)]
    assert at(After(BORN, ""), log_of(1, 2, keep=1)).gaps == ("trimmed",)


def test_a_cursor_ahead_of_the_store_gets_a_gap_and_new_events_only() -> None:
    log = log_of(1, 2)
    where = at(after(3), log)
    assert where.gaps == ("unknown-id",)
    assert where.cursor == id_of(2)


def test_i2_a_cursor_from_before_the_store_was_born_though_the_topic_has_a_record_from_then() -> None:
    """A shared store that went back too often to remember each time counts as born later. It may have lost events."""
    state = known_at(id_of(2), born=id_of(1) + 1)
    assert position(after(1), "a", [log_of(1, 2)], state).gaps == ("lost",)
    assert position(After(id_of(1) + 1, ""), "a", [log_of(1, 2)], state).gaps == ()


def test_a_cursor_at_the_newest_id_stays_there_though_that_event_is_still_on_its_way() -> None:
    """I1: the subscriber has it from another instance."""
    state = StateValue(BORN, id_of(2), id_of(1))
    where = position(after(2), "a", [log_of(1)], state)
    assert (where.cursor, where.gaps) == (id_of(2), ())


def test_malformed_gets_everything_kept() -> None:
    log = log_of(1, 2, 3, keep=2)
    where = at(Malformed("x\ny"), log)
    assert told(where) == [("broker.gap", {"topic": "a", "after": "x\ny", "reason": "unknown-id"}, "")]
    assert delivered(where, log) == [id_of(2), id_of(3)]


@pytest.mark.parametrize(
    ("start", "count"), [(Since(0), 3), (Since(NOW + 1), 3), (Since(NOW + 1.001), 2), (Since(NOW + 9), 0)]
)
def test_a_time_reaches_as_far_as_retention_and_is_no_gap(start: Start, count: int) -> None:
    log = log_of(-1, 1, 2, 3, keep=3)
    where = at(start, log)
    assert len(delivered(where, log)) == count
    assert (where.preface, where.gaps) == (b"", ())


def test_a_time_in_the_future_means_new_events_only() -> None:
    """I2: the clocks of a client and of the broker differ; nothing that comes next may be skipped for that."""
    assert at(Since(NOW + 1e9), log_of(1, 2), last_id=id_of(5)).cursor <= id_of(5)


@pytest.mark.parametrize(("count", "times"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (10, [1, 2, 3])])
def test_last_starts_so_many_events_back(count: int, times: list[float]) -> None:
    log = log_of(1, 2, 3)
    where = at(Last(count), log)
    assert delivered(where, log) == [id_of(time) for time in times]
    assert where.gaps == ()


def test_last_counts_in_each_topic() -> None:
    one, two, none = log_of(1, 2, 8, 9), log_of(3, 4), log_of()
    where = at(Last(1), one, two, none)
    assert delivered(where, one, two, none) == [id_of(4), id_of(9)]


def test_gap_in_one_of_several_topics_takes_nothing_of_the_others() -> None:
    one, two = log_of(1, 4, 7, keep=1), log_of(2, 3, 5)
    where = at(after(1), one, two)
    assert [data["topic"] for _, data, _ in told(where)] == ["a"]
    assert delivered(where, one, two) == [id_of(2), id_of(3), id_of(5), id_of(7)]


def test_one_cursor_for_topics_of_which_some_are_silent() -> None:
    one, two = log_of(1, 2), log_of()
    where = at(after(2), one, two)
    assert (where.cursor, where.floors, where.gaps) == (id_of(2), (), ())


def test_an_unknown_topic_is_a_gap_only_for_older_cursors() -> None:
    known, forgotten = log_of(1, 5), log_of(last=id_of(3))
    assert at(after(1), known, forgotten).gaps == ("trimmed",)
    assert at(after(3), known, forgotten).gaps == ()


def test_a_deleted_topic_is_no_gap_for_a_cursor_that_had_seen_everything() -> None:
    log = log_of(1, 2)
    log.clear(id_of(3), b"end")
    log.append(id_of(4), sse.frame(sse.lines(b"x"), id_of(4)))
    assert at(after(1), log).gaps == ("trimmed",)
    where = at(after(2), log)
    assert where.gaps == ()
    assert delivered(where, log) == [id_of(4)]


@given(
    st.lists(st.lists(st.integers(-900, 900), max_size=12, unique=True), min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(-1100, 1000),
)
def test_any_cursor_gets_all_later_events_or_a_gap_that_is_true(
    published: list[list[int]], keep: int, cursor: int
) -> None:
    """I2, both ways, for each topic."""
    logs = [log_of(*sorted(times), keep=keep or 1) for times in published]
    last_id = max(log.last for log in logs)
    where = at(after(cursor), *logs, last_id=last_id)
    gaps = {str(data["topic"]) for _, data, _ in told(where)}
    for topic, log, times in zip("abcd", logs, published, strict=False):
        have = {entry.id for entry in log.after(0)}
        missed = any(time > cursor and id_of(time) not in have for time in times)
        unknowable = id_of(cursor) < BORN or id_of(cursor) > last_id
        assert (topic in gaps) == (missed or unknowable)
    wanted = sorted(entry.id for log in logs for entry in log.after(id_of(cursor)))
    assert delivered(where, *logs) == wanted
    assert id_seconds(where.cursor) <= max(id_seconds(last_id), NOW + cursor)


# Topics that have ended


def closed_log(*times: float) -> Log:
    """A log with events at these seconds after `NOW`, of a topic that closed right after the last."""
    log = log_of(*times)
    log.close(log.last + 1, sse.end("a", "closed", log.last + 1))
    return log


def known_at(last_id: EventId, *, born: EventId = BORN, lost: EventId = 0) -> StoreState:
    return StateValue(born, last_id, last_id, lost)


def test_latest_writes_the_ends_of_closed_topics() -> None:
    """I1: no cursor is given behind which the end of an earlier topic would lie."""
    ended, live, later = closed_log(1), log_of(2), closed_log(3)
    where = at(Latest(), ended, live, later, last_id=id_of(5))
    assert told(where) == [
        ("broker.open", {"topics": ["a", "b", "c"]}, ""),
        ("broker.end", {"topic": "a", "reason": "closed"}, format_id(id_of(1) + 1)),
        ("broker.end", {"topic": "a", "reason": "closed"}, format_id(id_of(3) + 1)),
        ("broker.open", {"topics": ["b"]}, format_id(id_of(5))),
    ]
    assert (where.topics, where.cursor, where.floors, where.gaps) == (("b",), id_of(5), (), ())
    assert at(Latest(), ended, last_id=id_of(5)).topics == ()


def test_no_id_follows_an_end_that_is_the_newest_of_all() -> None:
    """I1: the second `broker.open` would have the id of the end before it."""
    first, middle, last, live = closed_log(1), closed_log(2), closed_log(3), log_of(2)
    where = at(Latest(), last, first, middle, live)
    ends = [format_id(log.last) for log in (first, middle, last)]
    assert [event_id for _, _, event_id in told(where)][1:4] == ends
    assert where.preface.endswith(sse.control("broker.open", {"topics": ["d"]}))
    assert (where.topics, where.cursor) == (("d",), last.last)


def test_latest_leaves_out_an_end_that_is_not_received_yet() -> None:
    ended = closed_log(1)
    where = position(Latest(), "a", [ended], StateValue(BORN, id_of(5), id_of(1)))
    assert (where.topics, where.cursor) == (("a",), id_of(1))
    assert delivered(where, ended) == [id_of(1) + 1]


@pytest.mark.parametrize(
    "start", [Since(0), Since(NOW + 900), Last(1), Malformed("x"), after(900), after(0.5)]
)
def test_the_end_is_delivered_wherever_one_starts(start: Start) -> None:
    ended = closed_log(1, 2)
    assert delivered(at(start, ended), ended)[-1] == ended.last


def test_a_cursor_at_the_last_event_of_a_closed_topic_has_no_gap() -> None:
    where = at(after(2), closed_log(1, 2))
    assert (where.topics, where.cursor, where.gaps) == (("a",), id_of(2), ())


def test_a_cursor_at_the_end_of_a_closed_topic_does_not_read_it() -> None:
    ended, live = closed_log(1), log_of(2, 3)
    where = at(after(2), ended, live)
    assert (where.topics, where.cursor, where.floors, where.preface) == (("b",), id_of(2), (), b"")
    assert not has_seen_all(after(2), [ended, live], known_at(id_of(3)))
    assert has_seen_all(after(2), [ended], known_at(id_of(3)))


@pytest.mark.parametrize(
    ("known", "lost_at"),
    [
        (known_at(id_of(1.5)), 0),  # ahead
        (known_at(id_of(9), lost=id_of(2)), 0),
        (known_at(id_of(9)), id_of(3)),
        (known_at(id_of(9), born=id_of(4)), 0),
    ],
    ids=["ahead", "of the lost time", "before a loss", "before the store was born"],
)
def test_a_cursor_behind_the_end_that_may_lack_events_gets_a_gap_and_the_end(
    known: StoreState, lost_at: EventId
) -> None:
    ended = closed_log(1)
    ended.lost_at = lost_at
    assert not has_seen_all(after(2), [ended], known)
    where = position(after(2), "a", [ended], known)
    assert len(where.gaps) == 1
    if known.last_id < id_of(2):  # ahead
        assert delivered(where, ended) == [ended.last]
        return
    assert where.topics == ()
    assert [(kind, event_id) for kind, _, event_id in told(where)] == [
        ("broker.gap", ""),
        ("broker.end", format_id(known.received_to)),
    ]


def test_a_cursor_at_the_end_that_may_lack_events_behind_it_gets_a_gap() -> None:
    ended = closed_log(1)
    ended.lost_at = id_of(3)
    where = position(After(ended.last, ""), "a", [ended], known_at(id_of(9)))
    assert (where.gaps, where.topics) == (("lost",), ())
    assert told(where)[-1][2] == format_id(id_of(9))


def test_i1_a_repeated_end_does_not_move_the_cursor_of_other_topics_back() -> None:
    ended, live = closed_log(1), log_of(2, 3)
    ended.lost_at = id_of(2.5)
    where = at(after(2), ended, live)
    assert (where.topics, where.cursor, where.gaps) == (("b",), id_of(2), ("lost",))
    assert [(kind, event_id) for kind, _, event_id in told(where)] == [("broker.gap", ""), ("broker.end", "")]
    assert delivered(where, live) == [id_of(3)]


def test_a_repeated_end_has_no_id_before_the_loss() -> None:
    """This instance hasn't received anything after the cursor yet, so the client's cursor stays."""
    ended = closed_log(1)
    ended.lost_at = id_of(3)
    state = StateValue(BORN, id_of(9), ended.last)
    where = position(After(ended.last, ""), "a", [ended], state)
    assert told(where)[-1][::2] == ("broker.end", "")


def test_a_cursor_at_the_loss_behind_the_end_lacks_nothing() -> None:
    ended = closed_log(1)
    ended.lost_at = id_of(2)
    assert has_seen_all(after(2), [ended], known_at(id_of(2)))
    assert has_seen_all(after(2), [ended], known_at(id_of(2), born=id_of(2)))
    assert has_seen_all(After(ended.last, ""), [closed_log(1)], known_at(ended.last))


@pytest.mark.parametrize("start", [Latest(), Since(0), Last(1), Malformed("x")])
def test_only_a_cursor_can_have_seen_the_end(start: Start) -> None:
    assert not has_seen_all(start, [closed_log(1)], known_at(id_of(9)))
