"""`broker doctor` finds each fault that is planted in the proxies' files of `deploy/`, and none in the files as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.doctor import Finding, Report, Severity, Target, examine
from tests.live.proxies import ProxyProcess
from tests.support.broker_process import BrokerProcess, SharedBrokers

IDLE_SECONDS = 4.0


@pytest.fixture
def broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    """One that sends a heartbeat after a second of silence."""
    return shared_brokers.get(heartbeat_seconds=1)


def finding(report: Report, code: str) -> Finding:
    (found,) = [one for one in report.findings if one.code == code]
    return found


async def examined(
    kind: type[ProxyProcess], broker: BrokerProcess, folder: Path, changes: Mapping[str, str]
) -> Report:
    """The report on a broker behind a proxy whose file has these changes."""
    with kind([broker.url], folder, changes=changes) as proxy:
        return await examine(Target(proxy.url, idle_seconds=IDLE_SECONDS))


async def test_buffering(
    proxies: dict[str, type[ProxyProcess]], broker: BrokerProcess, tmp_path: Path
) -> None:
    report = await examined(
        proxies["nginx"],
        broker,
        tmp_path,
        {
            "proxy_buffering off;": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
            "proxy_http_version 1.1;": "proxy_http_version 1.0;",  # with 1.1 nginx passes each chunk on
        },
    )
    found = finding(report, "buffering")
    assert (found.severity, found.hop) == (Severity.ERROR, "nginx")
    assert "proxy_buffering off;" in found.remedies["nginx"]
    assert "It arrived when the topic ended" in found.evidence
