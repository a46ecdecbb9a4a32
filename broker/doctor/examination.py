"""Runs the checks: first whether a broker answers at all, then all checks at the same time, then the removal of their topics.

They may run together: each has topics and connections of its own, and together they send some ten requests a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping

import aiohttp

from broker.doctor.checks import CHECKS, NEED_SHARED_STORE, Check
from broker.doctor.checks.heartbeats import USUAL_SECONDS
from broker.doctor.finding import Finding, Severity, Verdict, error, info
from broker.doctor.preflight import Unreachable as Unreachable
from broker.doctor.preflight import preflight
from broker.doctor.remedies import ANY, remedies_for
from broker.doctor.report import Report
from broker.doctor.site import CLEAN_SECONDS, NothingArrived, RequestFailed, Site, Target
from broker.doctor.trust import trust

SHARED_STORE, BUFFERING = "shared-store", "buffering"
"""The codes of checks that explain why others fail."""
HEARTBEATS = "heartbeats"
"""The code of the check that `Site.first_heartbeat` waits for."""
MAX_EVIDENCE_CHARS = 1000
MARGIN_SECONDS = 10.0
"""How much longer than `idle_seconds` the preflight and all checks together may take."""

Notify = Callable[[int, list[str]], None]
"""Called with the number of finished checks, and the codes of those that still run."""


def silent(done: int, running: list[str]) -> None:
    """Show no progress."""


async def examine(target: Target, notify: Notify = silent, only: Collection[str] = CHECKS.keys()) -> Report:
    """Examine the path to the broker at `target`, with the checks of these codes.

    Raises:
        Unreachable: no broker could be examined, and why.
    """
    began_at = asyncio.get_running_loop().time()
    async with _site(target) as site:
        findings = []
        try:
            verdicts = await preflight(site)
            findings = [_finding(code, verdict, site.hop) for code, verdict in verdicts.items()]
            if all(verdict.severity is not Severity.ERROR for verdict in verdicts.values()):
                findings += await _run(
                    site, notify, began_at, {code: CHECKS[code] for code in CHECKS if code in only}
                )
        finally:
            if site.has_broker:
                removed = await _to_the_end(asyncio.create_task(_clean(site)))
                findings.append(_finding("topics", removed, None))
        seconds = asyncio.get_running_loop().time() - began_at
        return Report(target.url, findings, site.hops, seconds)


@contextlib.asynccontextmanager
async def _site(target: Target) -> AsyncIterator[Site]:
    context = trust(target)
    connector = aiohttp.TCPConnector(limit=0, ssl=True if context is None else context)
    jar = aiohttp.DummyCookieJar()  # a cookie could bind all requests to one broker
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False) as session:
        yield Site(target, session, context)


async def _run(site: Site, notify: Notify, began_at: float, checks: Mapping[str, Check]) -> list[Finding]:
    verdicts: dict[str, Verdict] = {}
    missing: list[str] = []
    late = info("It took too long and was stopped.")

    async def run(code: str, check: Check) -> None:
        try:
            verdicts[code] = await check(site)
        except RequestFailed as failure:
            verdicts[code] = error(f"A request that should succeed failed: {failure}.")
        except NothingArrived as failure:
            missing.append(code)
            verdicts[code] = error(str(failure), site.hop)
        notify(len(verdicts), [other for other in checks if other not in verdicts])

    if HEARTBEATS not in checks:
        site.first_heartbeat.set_result(USUAL_SECONDS)
    deadline = began_at + site.target.idle_seconds + MARGIN_SECONDS
    notify(0, list(checks))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline), asyncio.TaskGroup() as group:
            for code, check in checks.items():
                group.create_task(run(code, check))
    if verdicts.get(SHARED_STORE, late).severity is Severity.ERROR:
        verdicts |= {
            code: _explained(verdicts[code], SHARED_STORE) for code in NEED_SHARED_STORE & verdicts.keys()
        }
    elif verdicts.get(BUFFERING, late).severity is Severity.ERROR:
        verdicts |= {code: _explained(verdicts[code], BUFFERING) for code in missing}
    return [_finding(code, verdicts.get(code, late), site.hop) for code in checks]


def _explained(verdict: Verdict, code: str) -> Verdict:
    """`verdict`, if it isn't ok, as a consequence of the finding with this code."""
    return verdict if verdict.severity is Severity.OK else info(f"{verdict.evidence} See {code}.")


def _finding(code: str, verdict: Verdict, hop: str | None) -> Finding:
    remedies: dict[str, str] = {}
    if verdict.severity in (Severity.ERROR, Severity.WARNING):
        remedies = {ANY: verdict.advice} if verdict.advice else dict(remedies_for(code, verdict.hop or hop))
    return Finding(code, verdict.severity, _shown(verdict.evidence), verdict.hop, remedies)


def _shown(evidence: str) -> str:
    """`evidence` without control characters, which a server may have put in, and not endless."""
    return "".join(char if char.isprintable() else "?" for char in evidence)[:MAX_EVIDENCE_CHARS]


async def _to_the_end(task: asyncio.Task[Verdict]) -> Verdict:
    """The result of `task`, which runs to its end even if this is cancelled."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _clean(site: Site) -> Verdict:
    try:
        async with asyncio.timeout(CLEAN_SECONDS):
            deleted, remaining = await site.clean()
    except TimeoutError:
        return info(
            "The topics of this examination could not be removed in time; the broker keeps them for a minute."
        )
    if remaining:
        return info(
            f"{remaining} topics of this examination were closed, and expire within a minute: deleting them needs a token with admin."
        )
    return Verdict(Severity.OK, f"All {deleted} topics of this examination were deleted.")
