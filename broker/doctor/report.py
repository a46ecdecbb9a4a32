"""The result of an examination, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.doctor.finding import Finding, Severity
from broker.reports import escape

_ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.OK)
_WIDTH = 118


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one URL.

    Attributes:
        hops: the proxies that were recognised.
        seconds: how long the examination took.
    """

    url: str
    findings: Sequence[Finding]
    hops: Sequence[str]
    seconds: float

    @property
    def counts(self) -> Mapping[Severity, int]:
        """How many findings of each severity there are."""
        return {severity: sum(one.severity is severity for one in self.findings) for severity in _ORDER}

    @property
    def exit_status(self) -> int:
        """1 if there is an error, else 0."""
        return int(self.counts[Severity.ERROR] > 0)

    def as_json(self) -> dict[str, object]:
        """The report as a JSON object."""
        return {
            "url": self.url,
            "hops": list(self.hops),
            "seconds": round(self.seconds, 1),
            "counts": {severity.value: count for severity, count in self.counts.items()},
            "findings": [finding.as_json() for finding in self.findings],
        }


def text(report: Report) -> str:
    """The report for a person: errors first, each with its remedies, then the rest."""
    path = " and ".join(report.hops) if report.hops else "no proxy that could be recognised"
    lines = [f"{report.url}, through {path}", ""]
    for severity in _ORDER:
        for finding in report.findings:
            if finding.severity is severity:
                lines += _lines(finding)
    counts = report.counts
    total = (
        f"{_counted(counts[Severity.ERROR], 'error')}, {_counted(counts[Severity.WARNING], 'warning')}, "
        f"{counts[Severity.OK]} ok, {counts[Severity.INFO]} not examined; {report.seconds:.0f} s"
    )
    return "\n".join([*lines, "", total])


def _lines(finding: Finding) -> list[str]:
    hop = f" [{finding.hop}]" if finding.hop else ""
    label = finding.severity.value
    if finding.severity in (Severity.ERROR, Severity.WARNING):
        label = label.upper()
    lines = _wrapped(f"{label:<8}{finding.code:<18}", finding.evidence + hop)
    for name, remedy in finding.remedies.items():
        lines += _wrapped(f"{'':26}-> ", remedy if name == "any" else f"{name}: {remedy}")
    return lines


def _wrapped(start: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        escape(sentence),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
