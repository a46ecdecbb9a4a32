"""The values of an examination: the answer of a check, and its finding in the report."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Severity(enum.StrEnum):
    """How much a finding matters. Only errors make the exit status 1."""

    ERROR = "error"
    """Subscribers or publishers lose something, or wait."""
    WARNING = "warning"
    """Works now, and fails under a condition that the evidence names."""
    INFO = "info"
    """Could not be examined, and why."""
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one check.

    Attributes:
        evidence: the observation, with figures; one or more sentences.
        hop: the proxy that causes it, as `hops` names it; None if unknown.
        advice: a remedy for this observation with any proxy; the table `remedies` has the others.
    """

    severity: Severity
    evidence: str
    hop: str | None = None
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict under the code of its check, with remedies.

    Attributes:
        code: the name of the check; each occurs at most once in a report.
        remedies: what to change, by the proxy's name, or `any` or `broker`; empty unless it is an error or a warning.
    """

    code: str
    severity: Severity
    evidence: str
    hop: str | None = None
    remedies: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The finding as a JSON object."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "evidence": self.evidence,
            "hop": self.hop,
            "remedies": dict(self.remedies),
        }


def ok(evidence: str) -> Verdict:
    """Nothing is wrong."""
    return Verdict(Severity.OK, evidence)


def info(evidence: str) -> Verdict:
    """This could not be examined."""
    return Verdict(Severity.INFO, evidence)


def warning(evidence: str, hop: str | None = None, advice: str = "") -> Verdict:
    """Something fails under a condition."""
    return Verdict(Severity.WARNING, evidence, hop, advice)


def error(evidence: str, hop: str | None = None, advice: str = "") -> Verdict:
    """Something is wrong."""
    return Verdict(Severity.ERROR, evidence, hop, advice)
