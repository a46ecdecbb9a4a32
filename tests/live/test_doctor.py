"""`broker doctor` finds each fault that is planted in the proxies' files of `deploy/`, and none in the files as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.doctor import Finding, Report, Severity, Target, examine, text
from tests.live.proxies import ProxyProcess
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.tokens import HMAC, SECRET

ORIGIN = "https://app.example.com"
PLAIN_HTTP = {"http2": Severity.WARNING}
"""The warning that every URL with http gets."""
TOKEN = HMAC.token(["doctor.*"], ["doctor.*"], admin=True)


def finding(report: Report, code: str) -> Finding:
    (found,) = [one for one in report.findings if one.code == code]
    return found


def faults(report: Report) -> dict[str, Severity]:
    """Errors and warnings, by code."""
    return {
        one.code: one.severity
        for one in report.findings
        if one.severity in (Severity.ERROR, Severity.WARNING)
    }


@dataclass(frozen=True)
class Planted:
    """Faults in a proxy's file.

    Attributes:
        changes: to the file.
        found: the severity of each fault that must be found, by code; no other may be.
        settings: of the broker.
        seconds: how long streams are watched.
    """

    proxy: str
    hop: str
    changes: Mapping[str, str]
    found: Mapping[str, Severity]
    settings: Mapping[str, Any] = field(default_factory=lambda: {"heartbeat_seconds": 0.5})
    target: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 6.0


ERROR, WARNING = Severity.ERROR, Severity.WARNING
UNASKED_BUFFERING = {"proxy_buffering off;": "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"}
GZIP = "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"

PLANTED = {
    "nginx buffers": Planted(
        "nginx",
        "nginx",
        {
            **UNASKED_BUFFERING,
            "proxy_http_version 1.1;": "proxy_http_version 1.0;",  # with 1.1 nginx passes each chunk on
        },
        {"buffering": ERROR, "chunking": WARNING, "request-buffering": WARNING},
    ),
    "nginx holds events to compress them": Planted(
        "nginx", "nginx", {**UNASKED_BUFFERING, "gzip off;": GZIP}, {"compression": ERROR}
    ),
    "nginx compresses each event": Planted("nginx", "nginx", {"gzip off;": GZIP}, {"compression": WARNING}),
    "nginx cuts silent streams": Planted(
        "nginx",
        "nginx",
        {"proxy_read_timeout 75s;": "proxy_read_timeout 5s;"},
        {"idle-timeout": ERROR, "heartbeats": ERROR},
        settings={},
        seconds=8,
    ),
    "nginx changes requests and answers": Planted(
        "nginx",
        "nginx",
        {
            'proxy_set_header Connection "";': 'proxy_set_header Connection ""; proxy_set_header Last-Event-ID "";',
            "proxy_set_header Host $http_host;": "proxy_set_header Host $proxy_host;",
            "proxy_request_buffering off;": "proxy_request_buffering on;",
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;": 'proxy_set_header X-Forwarded-For "";',
            "error_page 472 = @keyed;": "error_page 472 = @keyed; proxy_intercept_errors on; "
            "error_page 409 410 =200 @fine; location @fine { return 200 fine; }",
            "proxy_pass_header X-Accel-Buffering;": "proxy_hide_header Cache-Control;",
            "log_format path": "proxy_cache_path cache keys_zone=cache:1m; log_format path",
            "location @stream {": "location @stream { proxy_cache cache; proxy_cache_valid 200 1m; "
            "proxy_buffering on; proxy_ignore_headers Cache-Control Vary;",
        },
        {
            "last-event-id": ERROR,
            "host": ERROR,
            "forwarded": WARNING,
            "request-buffering": WARNING,
            "error-statuses": ERROR,
            "stream-headers": WARNING,
            "caching": ERROR,
        },
    ),
    "nginx removes the header with the token": Planted(
        "nginx",
        "nginx",
        {
            'proxy_set_header Connection "";': 'proxy_set_header Connection ""; proxy_set_header Authorization "";'
        },
        {"authorization": ERROR},
        settings={"heartbeat_seconds": 0.5, "jwt_secrets": [SECRET]},
        target={"token": TOKEN},
    ),
    "nginx removes the query with the token, adds CORS headers and removes chunks": Planted(
        "nginx",
        "nginx",
        {
            "gzip off;": "gzip off; chunked_transfer_encoding off; add_header Access-Control-Allow-Origin *;",
            "recursive_error_pages on;": 'recursive_error_pages on; if ($args ~ access_token) { set $args ""; }',
        },
        {"query-token": ERROR, "cors": ERROR, "chunking": WARNING},
        settings={"heartbeat_seconds": 0.5, "jwt_secrets": [SECRET], "cors_origins": ORIGIN},
        target={"token": TOKEN, "origin": ORIGIN},
    ),
    "HAProxy cuts silent streams, and rewrites 204 and Date": Planted(
        "haproxy",
        "HAProxy",
        {
            "timeout server 75s": "timeout server 5s",
            "    option httpchk": '    http-response set-header Date "Mon, 30 Nov 2020 00:00:00 GMT"\n    option httpchk',
            "    # Use the results of the checks above.": "    http-response set-status 200 if { status 204 }",
        },
        {"idle-timeout": ERROR, "heartbeats": ERROR, "end-of-topic": ERROR, "clock": WARNING},
        settings={},
        seconds=8,
    ),
    "Caddy cuts silent streams": Planted(
        "caddy",
        "Caddy",
        {"read_timeout 75s": "read_timeout 5s"},
        {"idle-timeout": ERROR, "heartbeats": ERROR},
        settings={},
        seconds=8,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_planted_faults_are_found_and_no_others(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path, name: str
) -> None:
    planted = PLANTED[name]
    with (
        BrokerProcess(**planted.settings) as broker,
        proxies[planted.proxy]([broker.url], tmp_path, changes=planted.changes) as proxy,
    ):
        report = await examine(Target(proxy.url, idle_seconds=planted.seconds, **planted.target))
    assert faults(report) == {**PLAIN_HTTP, **planted.found}, text(report)
    for code in planted.found:
        found = finding(report, code)
        assert found.hop == planted.hop, found
        assert {planted.hop, "any"} & found.remedies.keys(), found


@pytest.mark.parametrize("secure", [False, True])
async def test_the_files_as_they_are_come_out_clean(
    proxy: type[ProxyProcess], shared_brokers: SharedBrokers, tmp_path: Path, secure: bool
) -> None:
    broker = shared_brokers.get(heartbeat_seconds=0.5)
    with proxy([broker.url], tmp_path) as running:
        url = running.tls_url if secure else running.url
        report = await examine(
            Target(url, idle_seconds=4, ca_file=str(running.authority) if secure else None)
        )
    assert faults(report) == ({} if secure else PLAIN_HTTP), text(report)
    assert len(report.hops) == 1


async def test_a_proxy_that_hides_https(
    proxies: dict[str, type[ProxyProcess]], shared_brokers: SharedBrokers, tmp_path: Path
) -> None:
    broker = shared_brokers.get(heartbeat_seconds=0.5)
    changes = {"proxy_set_header X-Forwarded-Proto $scheme;": ""}
    with proxies["nginx"]([broker.url], tmp_path, changes=changes) as proxy:
        report = await examine(
            Target(proxy.tls_url, ca_file=str(proxy.authority)), only=["forwarded", "host"]
        )
    assert faults(report) == {"forwarded": WARNING}
    assert "$scheme" in finding(report, "forwarded").remedies["nginx"]


async def test_brokers_that_share_no_store(proxies: dict[str, type[ProxyProcess]], tmp_path: Path) -> None:
    with (
        BrokerProcess(heartbeat_seconds=0.5) as one,
        BrokerProcess(heartbeat_seconds=0.5) as other,
        proxies["nginx"]([one.url, other.url], tmp_path) as proxy,
    ):
        report = await examine(Target(proxy.url, idle_seconds=6))
    assert faults(report) == {**PLAIN_HTTP, "shared-store": ERROR}, text(report)
    assert "--redis-url" in finding(report, "shared-store").remedies["any"]


@pytest.mark.slow
async def test_a_default_of_a_minute_is_named_and_does_no_harm(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path
) -> None:
    changes = {"proxy_read_timeout 75s;": ""}
    with BrokerProcess() as broker, proxies["nginx"]([broker.url], tmp_path, changes=changes) as proxy:
        report = await examine(Target(proxy.url, idle_seconds=70), only=["heartbeats", "idle-timeout"])
    assert faults(report) == {}
    found = finding(report, "idle-timeout")
    assert "cut after 60." in found.evidence
    assert "60 s is the default `proxy_read_timeout` in nginx." in found.evidence
