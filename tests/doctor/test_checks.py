"""Faults that no real proxy of the tests makes: each is planted in a hop of the test's own, or in the broker's settings."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from broker.doctor import Finding, Severity, Target, Unreachable, examine
from broker.doctor.checks import buffering
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tcp_proxy import Direction, TcpProxy
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS

NOTHING: Mapping[bytes, bytes] = {}


async def found(url: str, code: str, **target: Any) -> Finding:
    """What one check finds at `url`."""
    report = await examine(Target(url, **{"idle_seconds": 3, **target}), only=[code])
    (finding,) = [one for one in report.findings if one.code == code]
    return finding


class Meddler(TcpProxy):
    """Replaces bytes of responses by as many others; passes them on every so many seconds, or cuts them after so many."""

    def __init__(
        self,
        port: int,
        replaced: Mapping[bytes, bytes] = NOTHING,
        *,
        collect_seconds: float = 0,
        cut_seconds: float | None = None,
    ) -> None:
        super().__init__(port)
        assert all(len(old) == len(new) for old, new in replaced.items())
        self._replaced = replaced
        self._collect_seconds = collect_seconds
        self._cut_seconds = cut_seconds

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        if direction == "up":
            await super()._carry(source, target, direction)
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._cut_seconds):
                while data := await source.read(65536):
                    for old, new in self._replaced.items():
                        data = data.replace(old, new)
                    target.write(data)
                    await target.drain()
                    await asyncio.sleep(self._collect_seconds)


class Forwarder(TcpProxy):
    """Names a client's address in each request."""

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if direction == "up":
                    data = data.replace(b"\r\nHost:", b"\r\nX-Forwarded-For: 203.0.113.7\r\nHost:", 1)
                target.write(data)
                await target.drain()


async def test_events_in_clumps(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "EVENT_SECONDS", WAIT_SECONDS)  # they come late, not never
    async with Meddler(server.port, collect_seconds=1.2) as hop:
        finding = await found(hop.url, "buffering")
    assert finding.severity is Severity.WARNING
    assert "clumps" in finding.evidence


async def test_a_stream_that_is_cut_though_events_arrive(server: Server) -> None:
    async with Meddler(server.port, cut_seconds=1.5) as hop:
        finding = await found(hop.url, "stream-duration", idle_seconds=WAIT_SECONDS)
    assert finding.severity is Severity.ERROR
    assert re.search(r"A stream was cut after [1-9]", finding.evidence)


async def test_a_body_that_is_cut_though_lines_arrive(server: Server) -> None:
    async with Meddler(server.port, cut_seconds=1.5) as hop:
        finding = await found(hop.url, "body-duration", idle_seconds=WAIT_SECONDS)
    assert finding.severity is Severity.ERROR
    assert re.search(r"A streamed body was cut after [1-9]", finding.evidence)


async def test_a_body_that_the_broker_ends_itself(server: Server) -> None:
    server.services.bodies.stop()
    finding = await found(server.url, "body-duration")
    assert finding.severity is Severity.INFO
    assert "The broker ended the streamed body itself" in finding.evidence


async def test_a_body_that_the_broker_refuses(serve: Serve) -> None:
    server = await serve(max_bodies_per_address=1)
    chunked = b"Transfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n"
    await server.send(b"POST /topics/a HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % chunked)
    finding = await found(server.url, "body-duration")
    assert finding.severity is Severity.ERROR
    assert "429" in finding.evidence


async def test_a_silent_stream_that_is_cut_where_no_proxy_shows(server: Server) -> None:
    async with Meddler(server.port, cut_seconds=1.5) as hop:
        finding = await found(hop.url, "idle-timeout", idle_seconds=WAIT_SECONDS)
    assert (finding.severity, finding.hop) == (Severity.ERROR, None)
    assert finding.remedies.keys() >= {"nginx", "Envoy", "ALB", "broker"}


@pytest.mark.parametrize(
    ("code", "replaced", "severity"),
    [
        ("gap", {b"event: broker.gap\n": b"event: broker.xxx\n"}, Severity.ERROR),
        ("reconnect", {b"retry: ": b"relax: "}, Severity.WARNING),
        ("stream-headers", {b"text/event-stream": b"text/event-strime"}, Severity.ERROR),
        ("stream-headers", {b"no-cache, no-transform": b"no-cache, no-tailfins!"}, Severity.WARNING),
        ("end-of-topic", {b" 204 No Content": b" 200 No Content"}, Severity.ERROR),
        ("error-statuses", {b" 409 Conflict": b" 500 Conflict"}, Severity.ERROR),
        ("error-statuses", {b'"code": "closed"': b'"code": "others"'}, Severity.WARNING),
        ("chunking", {b"\r\n0\r\n\r\n": b"\r\n2\r\n:\n"}, Severity.WARNING),
    ],
)
async def test_changed_responses(
    server: Server, code: str, replaced: Mapping[bytes, bytes], severity: Severity
) -> None:
    assert (await found(server.url, code)).severity is Severity.OK
    async with Meddler(server.port, replaced) as hop:
        finding = await found(hop.url, code)
    assert finding.severity is severity, finding
    assert finding.remedies


async def test_control_characters_of_a_server_do_not_reach_the_terminal(server: Server) -> None:
    async with Meddler(server.port, {b"text/event-stream": b"text/\x80[31mstream!!!"[:17]}) as hop:
        finding = await found(hop.url, "stream-headers")
    assert finding.severity is Severity.ERROR
    assert "text/?[31m" in finding.evidence


async def test_a_path_that_is_not_passed_on(server: Server) -> None:
    script = b" 200 OK\r\nCache-Control: no-cache\r\nContent-Type: text/javascript"
    async with Meddler(server.port, {script: script.replace(b"200", b"404")}) as hop:
        finding = await found(hop.url, "base-path")
    assert finding.severity is Severity.WARNING
    assert "/client.js (404)" in finding.evidence


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_clock_that_is_wrong(serve: Serve, clock: Clock, seconds: int) -> None:
    clock.now += seconds
    finding = await found((await serve()).url, "clock")
    assert finding.severity is Severity.WARNING
    assert ("ahead of" if seconds > 0 else "behind") in finding.evidence


@pytest.mark.parametrize("allowed", ["", "https://app.example.com"])
async def test_an_origin(serve: Serve, allowed: str) -> None:
    server = await serve(cors_origins=(allowed,) if allowed else ())
    finding = await found(server.url, "cors", origin="https://app.example.com")
    assert finding.severity is (Severity.OK if allowed else Severity.ERROR)
    assert allowed or "--cors-origins" in finding.remedies["any"]


async def test_a_broker_that_ends_streams_itself(serve: Serve) -> None:
    server = await serve(max_age_seconds=0.5)

    async def sweep() -> None:
        while True:
            server.node.streams.hub.sweep()
            await asyncio.sleep(0.05)

    sweeping = asyncio.create_task(sweep())
    try:
        for code in ("idle-timeout", "stream-duration"):
            finding = await found(server.url, code, idle_seconds=WAIT_SECONDS)
            assert finding.severity is Severity.INFO
            assert "The broker ended the stream itself" in finding.evidence
    finally:
        sweeping.cancel()


@pytest.mark.parametrize(
    ("trusted", "severity"), [(("127.0.0.1",), Severity.OK), (("10.0.0.0/8",), Severity.WARNING)]
)
async def test_whether_the_proxy_is_trusted(serve: Serve, trusted: Sequence[str], severity: Severity) -> None:
    server = await serve(max_connections_per_address=50, trusted_proxies=trusted)
    async with Forwarder(server.port) as hop:
        finding = await found(hop.url, "forwarded")
    assert finding.severity is severity
    assert "x-forwarded-for: 203.0.113.7" in finding.evidence
    assert severity is Severity.OK or "--trusted-proxies" in finding.remedies["any"]


async def test_a_token_that_may_not_subscribe(serve: Serve) -> None:
    server = await serve(jwt_secrets=(SECRET,))
    with pytest.raises(Unreachable, match="subscribe to doctor"):
        await found(server.url, "gap", token=HMAC.token(["doctor.*"], admin=True))
    states = await server.request(
        "GET", "/topics", accept="application/json", authorization=f"Bearer {HMAC.token(admin=True)}"
    )
    assert server.node.metrics.registry.get_sample_value("broker_published_events_total") == 1
    assert states.json()["topics"] == [], "it deletes its topic even then"


async def test_a_broker_that_keeps_nothing_for_a_minute(serve: Serve) -> None:
    server = await serve(retain_max_seconds=30, retention_seconds=10)
    assert (await found(server.url, "last-event-id")).severity is Severity.OK


async def test_a_rate_limit_is_waited_for(serve: Serve) -> None:
    server = await serve(max_publishes_per_second=2)
    assert (await found(server.url, "last-event-id")).severity is Severity.OK


@pytest.mark.parametrize("days", [3, 60])
async def test_the_certificate(tmp_path: Path, days: int) -> None:
    authority = trustme.CA()
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days, hours=1)
    issued = authority.issue_cert("localhost", HOST, not_after=until)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    with BrokerProcess(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as broker:
        url = f"https://localhost:{broker.port}"
        finding = await found(url, "tls", ca_file=str(tmp_path / "ca.pem"))
        assert finding.severity is (Severity.WARNING if days < 14 else Severity.OK)
        assert f"for {days} more days" in finding.evidence
        without_http2 = await found(url, "http2", ca_file=str(tmp_path / "ca.pem"))
    assert without_http2.severity is Severity.WARNING
    assert "not offered" in without_http2.evidence


async def test_an_expired_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    issued = authority.issue_cert("localhost", not_after=past)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    with BrokerProcess(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as broker:
        finding = await found(f"https://localhost:{broker.port}", "tls", ca_file=str(tmp_path / "ca.pem"))
    assert finding.severity is Severity.ERROR
    assert "expired" in finding.evidence
