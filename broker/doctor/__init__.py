"""Examines the path to a broker from outside, through whatever proxies there are: `broker doctor`.

Rules: it knows a broker only by its HTTP interface. It publishes only into topics of its own and removes them.

    finding      the values: severity, verdict, finding
    wire         one exchange byte by byte
    site         the path as checks use it: requests, streams, topics
    hops         recognises proxies
    timeouts     which time-out belongs to which proxy
    remedies     what to change, by finding and proxy
    checks       one module for each check
    trust        certificates
    preflight    what must hold before the checks
    report       the result as text and as JSON
    examination  runs the checks
"""

from __future__ import annotations

from broker.doctor.examination import Unreachable, examine
from broker.doctor.finding import Finding, Severity
from broker.doctor.report import Report, text
from broker.doctor.site import Target

__all__ = ["Finding", "Report", "Severity", "Target", "Unreachable", "examine", "text"]
