"""The report for a person."""

from __future__ import annotations

from broker.doctor.finding import Finding, Severity
from broker.doctor.report import Report, text


def test_what_a_server_sends_reaches_no_terminal() -> None:
    """Evidence quotes headers and events of a server that may be hostile."""
    finding = Finding(
        "headers", Severity.ERROR, "The header is 'a\x1b[2J\x9b31m\x07'.", None, {"any": "Do \x9b this."}
    )
    shown = text(Report("https://a.example", [finding], ["nginx"], 1.0))
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "a\\x1b[2J\\x9b31m\\x07" in shown
