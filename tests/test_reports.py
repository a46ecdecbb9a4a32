"""Lines about clients: their fields, and the rate limit of each kind."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import reports
from broker.reports import BURST_SECONDS, MAX_ESCAPES, MAX_KINDS, SUMMARY_SECONDS, Reporter, escape
from tests.support.local_broker import Clock
from tests.support.log_lines import fields
from tests.support.work import bytecodes


@pytest.fixture(autouse=True)
def _captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker")


def test_a_line_has_the_fields_that_are_known(caplog: pytest.LogCaptureFixture) -> None:
    Reporter().report(logging.INFO, "gap", "lost", topics=("a",), subject=None, address="", subscribers=0)
    (record,) = caplog.records
    assert record.getMessage() == "gap"
    assert fields(record) == {"reason": "lost", "topics": ("a",), "subscribers": 0}


def test_each_kind_has_a_limit_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)
    reporter = Reporter(2, clock)
    for _ in range(1000):
        reporter.report(logging.INFO, "stream closed", "draining")
    reporter.report(logging.WARNING, "stream closed", "slow")
    reporter.report(logging.INFO, "gap", "lost")
    assert len(caplog.records) == 2 * BURST_SECONDS + 2
    caplog.clear()
    clock.now += 3
    for _ in range(10):
        reporter.report(logging.INFO, "stream closed", "draining")
    assert len(caplog.records) == 6, "as many as the seconds allow"


def test_a_low_rate_is_one_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)
    reporter = Reporter(0.1, clock)
    for _ in range(25):
        reporter.report(logging.INFO, "gap", "lost")
        clock.now += 1
    assert len(caplog.records) == 3


def test_what_was_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)
    reporter = Reporter(1, clock)
    for _ in range(BURST_SECONDS + 7):
        reporter.report(logging.INFO, "gap", "lost")
    caplog.clear()
    clock.now += SUMMARY_SECONDS - 1
    reporter.sweep()
    assert not caplog.records, "not yet"
    clock.now += 1
    reporter.sweep()
    (record,) = caplog.records
    assert record.getMessage() == "log lines left out"
    assert fields(record) == {"reason": "lost", "kind": "gap", "count": 7, "seconds": 10.0}
    caplog.clear()
    clock.now += SUMMARY_SECONDS
    reporter.sweep()
    reporter.close()
    assert not caplog.records, "once"


def test_the_end_reports_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(1, Clock(0.0))
    for _ in range(BURST_SECONDS + 1):
        reporter.report(logging.INFO, "gap", "lost")
    reporter.close()
    assert fields(caplog.records[-1])["count"] == 1


def test_the_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter(1, Clock(0.0))
    for number in range(MAX_KINDS + 100):
        reporter.report(logging.INFO, "gap", f"reason {number}")
    assert len(caplog.records) == MAX_KINDS + BURST_SECONDS
    assert len(reporter._buckets) == MAX_KINDS + 1


def test_a_line_below_the_level_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "broker")
    reporter = Reporter(1, Clock(0.0))
    for _ in range(100):
        reporter.report(logging.INFO, "gap", "lost")
    reporter.close()
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain, ü and 日本", "plain, ü and 日本"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x9b1m\x00", "\\x1b[2J\\x9b1m\\x00"),
        ("\u2028\u202e", "\\u2028\\u202e"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@given(st.text())
def test_escaped_text_is_printable(text: str) -> None:
    assert escape(text).isprintable()


def test_i9_long_text_of_control_characters_is_escaped_at_once() -> None:
    """A header of 8 KB took 2 ms."""
    text = "\x80\x81\u0e01" * 3000
    assert escape(text) == "\\x80\\x81\u0e01" * 3000
    assert bytecodes(lambda: escape(text)) < 200


def test_i4_few_characters_are_remembered() -> None:
    for code in range(0x20000, 0x20000 + 2 * MAX_ESCAPES):
        assert escape(f"\n{chr(code)}") == f"\\n{chr(code)}"
    assert len(reports._escapes) <= MAX_ESCAPES
