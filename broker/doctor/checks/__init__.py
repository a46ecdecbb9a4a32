"""The checks, each in a module of its own with one `async def check(site) -> Verdict`.

Rules: a check uses topics of its own, leaves nothing open, and takes at most `target.idle_seconds` and some seconds more. It
raises `RequestFailed` if a request that should succeed does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from broker.doctor.checks import buffering
from broker.doctor.finding import Verdict
from broker.doctor.site import Site

Check = Callable[[Site], Awaitable[Verdict]]

CHECKS: Mapping[str, Check] = {
    "buffering": buffering.check,
}
"""By code, in the order of a report."""
