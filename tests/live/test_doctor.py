"""`broker doctor` finds each fault that is planted in the proxies' files of `deploy/`, and none in the files as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from broker.doctor import Finding, Report, Severity, Target, examine, text
from broker.doctor.hops import GO
from tests.live.proxies import ProxyProcess
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.child_process import enter_all
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
ENVOY_TYPE = "type.googleapis.com/envoy."


def envoy_filter(name: str, kind: str, **options: object) -> Mapping[str, str]:
    """An HTTP filter of Envoy before those of the file."""
    config = {"@type": f"{ENVOY_TYPE}extensions.filters.http.{kind}", **options}
    added = json.dumps({"name": f"envoy.filters.http.{name}", "typed_config": config})
    return {"http_filters:\n": f"http_filters:\n                  - {added}\n"}


ENVOY_BUFFER = envoy_filter("buffer", "buffer.v3.Buffer", max_request_bytes=1_000_000)
ENVOY_FILE_BUFFER = envoy_filter(
    "file_system_buffer",
    "file_system_buffer.v3.FileSystemBufferFilterConfig",
    manager_config={"thread_pool": {"thread_count": 1}},
    response={"behavior": {"fully_buffer": {}}},
)
ENVOY_COMPRESSOR = envoy_filter(
    "compressor",
    "compressor.v3.Compressor",
    response_direction_config={"common_config": {"content_type": ["text/event-stream"]}},
    compressor_library={
        "name": "gzip",
        "typed_config": {"@type": f"{ENVOY_TYPE}extensions.compression.gzip.compressor.v3.Gzip"},
    },
)
ENVOY_409_BECOMES_200 = envoy_filter(
    "custom_response",
    "custom_response.v3.CustomResponse",
    custom_response_matcher={
        "matcher_list": {
            "matchers": [
                {
                    "predicate": {
                        "single_predicate": {
                            "input": {
                                "name": "status",
                                "typed_config": {
                                    "@type": f"{ENVOY_TYPE}type.matcher.v3.HttpResponseStatusCodeMatchInput"
                                },
                            },
                            "value_match": {"exact": "409"},
                        }
                    },
                    "on_match": {
                        "action": {
                            "name": "fine",
                            "typed_config": {
                                "@type": f"{ENVOY_TYPE}extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
                                "status_code": 200,
                                "body": {"inline_string": "fine"},
                            },
                        }
                    },
                }
            ]
        }
    },
)


def traefik_middleware(config: str) -> Mapping[str, str]:
    """A middleware of Traefik on all requests."""
    return {
        "middlewares: [again]": "middlewares: [again, added]",
        "    # A request without a body": "      middlewares: [added]\n    # A request without a body",
        "    again:\n": f"    added: {{{config}}}\n    again:\n",
    }


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
    "Envoy cuts silent streams": Planted(
        "envoy",
        "Envoy",
        {"stream_idle_timeout: 75s": "stream_idle_timeout: 5s"},
        {"idle-timeout": ERROR, "heartbeats": ERROR},
        settings={},
        seconds=8,
    ),
    "Envoy cuts every stream": Planted(
        "envoy", "Envoy", {"timeout: 0s # by default": "timeout: 4s # by default"}, {"stream-duration": ERROR}
    ),
    "Envoy buffers requests": Planted("envoy", "Envoy", ENVOY_BUFFER, {"request-buffering": WARNING}),
    "Envoy buffers answers": Planted("envoy", "Envoy", ENVOY_FILE_BUFFER, {"buffering": ERROR}),
    "Envoy removes Cache-Control, and so compresses": Planted(
        "envoy",
        "Envoy",
        {
            **ENVOY_COMPRESSOR,
            "request_headers_to_add:": "response_headers_to_remove: [cache-control]\n"
            "                          request_headers_to_add:",
        },
        {"compression": WARNING, "stream-headers": WARNING},
    ),
    "Envoy rewrites statuses": Planted(
        "envoy",
        "Envoy",
        {
            **ENVOY_409_BECOMES_200,
            'if refusals[headers:get(":status")] then': 'if headers:get(":status") == "204" then headers:replace(":status", "200") end\n'
            '                                    if refusals[headers:get(":status")] then',
        },
        {"error-statuses": ERROR, "end-of-topic": ERROR},
    ),
    "Traefik buffers": Planted(
        "traefik",
        GO,
        traefik_middleware("buffering: {maxRequestBodyBytes: 10000000}"),
        {"buffering": ERROR, "chunking": ERROR, "request-buffering": WARNING},
    ),
    "Traefik compresses": Planted(
        "traefik", GO, traefik_middleware("compress: {}"), {"compression": WARNING}
    ),
    "Traefik replaces error answers": Planted(
        "traefik",
        GO,
        traefik_middleware("errors: {status: [409-410], service: brokers, query: /healthz}"),
        {"error-statuses": WARNING},
    ),
    "Traefik cuts every answer": Planted(
        "traefik",
        GO,
        {"readTimeout: 0": "readTimeout: 0\n        writeTimeout: 4s"},
        {"stream-duration": ERROR, "body-duration": ERROR},
    ),
    "Traefik cuts every body": Planted(
        "traefik", GO, {"readTimeout: 0": "readTimeout: 4s"}, {"body-duration": ERROR}
    ),
}
TABLE = {GO: "Traefik"}
"""The proxy whose remedy a finding must have, if that isn't the hop itself."""


AT_ONCE = 4
"""So many paths are examined at the same time: an examination mostly waits."""
BATCHES = [list(PLANTED)[first : first + AT_ONCE] for first in range(0, len(PLANTED), AT_ONCE)]


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("names", BATCHES, ids="; ".join)
async def test_planted_faults_are_found_and_no_others(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path, names: Sequence[str]
) -> None:
    all_planted = [PLANTED[name] for name in names]
    brokers = {repr(planted.settings): BrokerProcess(**planted.settings) for planted in all_planted}
    with ExitStack() as stack:
        enter_all(stack, brokers.values())
        running = enter_all(
            stack,
            [
                proxies[planted.proxy](
                    [brokers[repr(planted.settings)].url],
                    made_folder(tmp_path / str(number)),
                    changes=planted.changes,
                )
                for number, planted in enumerate(all_planted)
            ],
        )
        reports = await asyncio.gather(
            *(
                examine(Target(proxy.url, idle_seconds=planted.seconds, **planted.target))
                for proxy, planted in zip(running, all_planted, strict=True)
            )
        )
    for name, planted, report in zip(names, all_planted, reports, strict=True):
        assert faults(report) == {**PLAIN_HTTP, **planted.found}, f"{name}: {text(report)}"
        for code in planted.found:
            found = finding(report, code)
            assert found.hop == planted.hop, (name, found)
            assert {TABLE.get(planted.hop, planted.hop), "any"} & found.remedies.keys(), (name, found)
            assert "nginx" not in found.remedies or planted.hop == "nginx", (name, found)


@pytest.mark.parametrize("secure", [False, True])
async def test_the_files_as_they_are_come_out_clean(
    proxies: dict[str, type[ProxyProcess]], shared_brokers: SharedBrokers, tmp_path: Path, secure: bool
) -> None:
    broker = shared_brokers.get(heartbeat_seconds=0.5)
    with ExitStack() as stack:
        running = enter_all(
            stack, [kind([broker.url], made_folder(tmp_path / name)) for name, kind in proxies.items()]
        )
        reports = await asyncio.gather(
            *(
                examine(
                    Target(
                        one.tls_url if secure else one.url,
                        idle_seconds=4,
                        ca_file=str(one.authority) if secure else None,
                    )
                )
                for one in running
            )
        )
    for name, report in zip(proxies, reports, strict=True):
        assert faults(report) == ({} if secure else PLAIN_HTTP), f"{name}: {text(report)}"
        assert len(report.hops) == 1, name


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
