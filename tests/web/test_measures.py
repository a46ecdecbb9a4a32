"""Each measure counts its own occasion, which is brought about for real."""

from __future__ import annotations

import re
import time

import pytest

from broker import sse
from broker.errors import DenialReason
from broker.measures import Distribution
from tests.support.http import chunked, read_answer
from tests.support.local_broker import Clock, Serve, Server
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import until

NDJSON = {"content_type": "application/x-ndjson"}


def value(server: Server, series: str) -> float:
    """The value of a series, labels and all."""
    text = server.node.metrics.text().decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"{series} is missing"
    return float(found[1])


async def test_series_exist_from_the_start_and_none_says_when_it_was_created(server: Server) -> None:
    families = {family.name: family for family in server.node.metrics.registry.collect()}
    for family in families.values():
        assert family.samples, family.name
    assert "_created" not in server.node.metrics.text().decode()
    for series in (
        'broker_gaps_total{reason="lost"}',
        'broker_closes_total{reason="slow"}',
        'broker_refused_connects_total{reason="max_connections_per_subject"}',
        'broker_publish_errors_total{code="unavailable"}',
        'broker_requests_total{method="POST",route="/topics/{topic}",status="503"}',
        'broker_store_call_seconds_count{call="publish"}',
    ):
        assert value(server, series) == 0


async def test_what_clients_name_is_never_a_label(server: Server) -> None:
    await server.publish("secret-topic", "x")
    for target in ("/topics/secret-topic", "/secret-topic", "/page/secret-topic", "/topics/secret-topic/x/y"):
        await server.request("GET", target, accept="application/json")
        await server.request("PROPFIND", target)
    text = server.node.metrics.text().decode()
    assert "secret-topic" not in text.lower()


async def test_an_event_is_timed_until_it_is_acknowledged_and_written(server: Server) -> None:
    first = await server.subscribe("/topics/news")
    second = await server.subscribe("/topics/news?envelope=json")
    await server.publish("news", "x")
    await first.data(1)
    await second.data(1)
    assert value(server, "broker_publish_acknowledged_seconds_count") == 1
    assert value(server, "broker_publish_written_seconds_count") == 2, "one pass over each feed"
    server.node.publish_at_once("news", [sse.lines(b"y")])
    time.sleep(0.05)  # noqa: ASYNC251 - something else holds up the loop between the publish and its fan-out
    await first.data(2)
    await second.data(2)
    assert value(server, "broker_publish_written_seconds_count") == 4
    assert value(server, "broker_publish_written_seconds_sum") >= 2 * 0.045
    await server.publish("nobody", "x")
    assert value(server, "broker_publish_written_seconds_count") == 4
    await server.request("DELETE", "/topics/news")
    await first.end()
    assert value(server, "broker_publish_written_seconds_count") == 4, "a DELETE publishes nothing"


async def test_each_event_is_acknowledged_once(server: Server) -> None:
    acknowledged = "broker_publish_acknowledged_seconds_count"
    lines = b'{"data": "a"}\n{"data": "b"}\n{"data": "c"}\n'
    assert (await server.request("POST", "/topics/news", lines, **NDJSON)).status == 200
    assert value(server, acknowledged) == 3
    for _ in range(2):
        await server.publish("news", "x", idempotency_key="k")
    assert value(server, acknowledged) == 4, "what is replayed was acknowledged before"
    await server.node.publish([("news", sse.lines(b"y")), ("other", sse.lines(b"y"))])
    assert value(server, acknowledged) == value(server, "broker_published_events_total") == 6


def test_a_distribution_counts_by_its_bounds() -> None:
    seen = Distribution("seconds", "", (1.0, 2.0))
    for quantity, number in ((0.5, 1), (1.0, 2), (1.5, 3), (2.0, 1), (9.0, 4)):
        seen.observe(quantity, number)
    assert (seen.counts, seen.count, seen.sum) == ([3, 4, 4], 11, 45.0)
    more = seen.with_least(5)
    seen.observe(9.0)
    assert (more.counts, more.sum) == ([8, 4, 4], 45.0)
    assert seen.counts == [3, 4, 5]


async def test_requests_by_route_and_status(server: Server) -> None:
    await server.publish("news", "x")
    await server.request("GET", "/topics/news", accept="application/json")
    await server.request("HEAD", "/healthz")
    await server.request("GET", "/nothing/here")
    await server.request("PUT", "/topics/news")
    await server.request("POST", "/topics/a..b", b"x")
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    for method, route, status, count in (
        ("POST", "/topics/{topic}", 201, 1),
        ("POST", "/topics/{topic}", 400, 1),
        ("GET", "/topics/{topic}", 200, 2),
        ("GET", "/healthz", 200, 1),
        ("none", "none", 404, 1),
        ("none", "none", 405, 1),
    ):
        series = f'broker_requests_total{{method="{method}",route="{route}",status="{status}"}}'
        assert value(server, series) == count, series
    assert value(server, 'broker_request_seconds_count{method="POST",route="/topics/{topic}"}') == 2
    assert value(server, "broker_answer_bytes_total") > 0


async def test_a_client_that_leaves_before_its_answer(server: Server) -> None:
    head = b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    _, writer = await server.send(head + b"x")
    await until(lambda: value(server, "broker_bodies") == 1, "its body is awaited")
    writer.transport.abort()
    series = 'broker_requests_total{method="POST",route="/topics/{topic}",status="499"}'
    await until(lambda: value(server, series) == 1, "it is counted")


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/plain"])
async def test_a_body_that_a_drain_ends_is_no_error(server: Server, kind: str) -> None:
    head = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    reader, _ = await server.send(f"{head}Content-Type: {kind}\r\n\r\n".encode())
    await until(lambda: value(server, "broker_bodies") == 1, "its body is awaited")
    server.services.bodies.stop()
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert value(server, 'broker_publish_errors_total{code="draining"}') == 1
    assert value(server, 'broker_publish_errors_total{code="unavailable"}') == 0, "the store is well"
    is_streamed = kind != "text/plain"
    assert value(server, 'broker_streamed_bodies_ended_total{reason="draining"}') == is_streamed


async def test_publishes_refused_by_code(server: Server) -> None:
    await server.request("POST", "/topics/a?end=true", b"x")
    for target, body, code in (
        ("/topics/a", b"x", "closed"),
        ("/topics/a..b", b"x", "invalid-topic"),
        ("/topics/b", b"\xff", "invalid-body"),
        ("/topics/b?retian=1h", b"x", "invalid-parameter"),
        ("/topics/b", b"x" * 300_000, "too-large"),
        ("/topics/_stats", b"x", "forbidden"),
    ):
        assert (await server.request("POST", target, body)).json()["code"] == code
        assert value(server, f'broker_publish_errors_total{{code="{code}"}}') == 1
    await server.request("GET", "/topics/a..b")
    assert value(server, 'broker_publish_errors_total{code="invalid-topic"}') == 1, "no publish"


async def test_requests_denied_by_reason(serve: Serve, clock: Clock) -> None:
    server = await serve(jwt_secrets=[SECRET], jwt_audience="here")
    now = clock()
    good = HMAC.token(["news"], ["news"], aud="here", sub="ann", iat=now - 5)
    admin = HMAC.token(admin=True, aud="here")

    async def denied(reason: DenialReason, status: int, target: str = "/topics/news", **headers: str) -> None:
        series = f'broker_denied_requests_total{{reason="{reason}",status="{status}"}}'
        before = value(server, series)
        assert (await server.request("POST", target, b"x", **headers)).status == status
        assert value(server, series) == before + 1

    def bearer(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    await denied(DenialReason.NO_TOKEN, 401)
    await denied(DenialReason.MALFORMED, 401, **bearer("no.jwt"))
    await denied(DenialReason.SIGNATURE, 401, **bearer(good[:-4] + "AAAA"))
    await denied(DenialReason.CLAIMS, 401, **bearer(HMAC.token(["news"], aud="elsewhere")))
    await denied(DenialReason.NOT_YET_VALID, 401, **bearer(HMAC.token(["news"], aud="here", nbf=now + 900)))
    await denied(DenialReason.EXPIRED, 401, **bearer(HMAC.token(["news"], aud="here", exp=now - 1)))
    await denied(DenialReason.SEVERAL_COOKIES, 401, cookie="broker_token=a; broker_token=b")
    await denied(DenialReason.TOPICS, 403, "/topics/other", **bearer(good))
    await denied(DenialReason.RESERVED_TOPIC, 403, "/topics/_stats", **bearer(good))
    await denied(DenialReason.COOKIE_ORIGIN, 403, cookie=f"broker_token={good}")
    await denied(DenialReason.ORIGIN, 403, origin="https://evil.example", **bearer(good))
    await denied(DenialReason.ADMIN, 403, "/admin/disconnect?subject=ann", **bearer(good))
    revoked = await server.request("POST", "/admin/revoke", b'{"sub": "ann"}', **bearer(admin))
    assert revoked.status < 300, revoked
    await denied(DenialReason.REVOKED, 401, **bearer(good))


async def test_a_denied_host(server: Server) -> None:
    answer = await server.request("GET", "/topics/news", host="evil.example", accept="application/json")
    assert answer.status == 403
    assert value(server, 'broker_denied_requests_total{reason="host",status="403"}') == 1


async def test_resumes_by_outcome_and_what_they_replay(serve: Serve) -> None:
    server = await serve(retention_events=3)
    ids = [await server.publish("news", str(number)) for number in range(5)]
    for cursor, outcome, replayed in (
        (ids[-1], "whole", 0),
        (ids[2], "whole", 2),
        (ids[0], "trimmed", 3),
        ("malformed!", "unknown-id", 3),
        ("1-0", "lost", 3),
    ):
        series = f'broker_resumes_total{{outcome="{outcome}"}}'
        before = value(server, series), value(server, "broker_replayed_events_total")
        stream = await server.subscribe("/topics/news", last_event_id=cursor)
        await stream.data(replayed)
        after = value(server, series), value(server, "broker_replayed_events_total")
        assert (after[0] - before[0], after[1] - before[1]) == (1, replayed), outcome
        await stream.close()
    assert value(server, "broker_replay_seconds_count") == 4, "the first one lacked nothing"
    assert value(server, 'broker_connects_total{kind="resume"}') == 5
    silent = await server.request("GET", f"/topics/news?control=none&lastEventId={ids[0]}")
    assert silent.status == 410
    assert value(server, 'broker_resumes_total{outcome="trimmed"}') == 2
    assert value(server, "broker_stream_bytes_total") > 0


async def test_streamed_bodies_by_how_they_end(server: Server) -> None:
    lines = b'{"data": 1}\n'
    await server.request("POST", "/topics/a", lines, **NDJSON)
    await server.request("POST", "/topics/a?end=true", lines, **NDJSON)
    await server.request("POST", "/topics/b", b"no json\n", **NDJSON)
    await server.request("POST", "/topics/b?end=true&end_data=x", lines, **NDJSON)
    head = b"POST /topics/%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, cut = await server.send(head % b"c" + chunked(lines, end=b""))
    _, cancelled = await server.send(head % b"d" + chunked(lines, end=b""))
    await until(lambda: value(server, "broker_streamed_bodies") == 2, "both are open")
    await until(lambda: value(server, "broker_unwatched_bodies") == 2, "neither is watched")
    viewer = await server.subscribe("/topics/d")
    await until(lambda: value(server, "broker_unwatched_bodies") == 1, "one is watched")
    cut.transport.abort()
    await server.request("POST", "/topics/d/cancel")
    for reason in ("complete", "ended", "invalid-body", "incomplete", "cut", "cancelled"):
        series = f'broker_streamed_bodies_ended_total{{reason="{reason}"}}'
        await until(lambda series=series: value(server, series) == 1, series)  # type: ignore[misc]
    assert value(server, "broker_streamed_bodies_opened_total") == 6
    assert value(server, "broker_cancels_total") == 1
    await viewer.close()
    cancelled.close()


async def test_how_far_streams_lag(serve: Serve) -> None:
    server = await serve(retention_bytes=20 << 20)
    await server.subscribe("/topics/news")  # the test doesn't read it
    for _ in range(60):
        await server.publish("news", "x" * 200_000)
    await until(lambda: value(server, "broker_lagging_subscribers") == 1, "it lags")
    assert value(server, "broker_lagging_bytes") > 200_000
    assert value(server, "broker_lagging_max_bytes") == value(server, "broker_lagging_bytes")
    await until(lambda: value(server, "broker_lagging_max_seconds") > 0.05, "it goes on")


async def test_the_event_loops_lag(server: Server) -> None:
    before = value(server, "broker_loop_lag_seconds_count")
    await until(lambda: value(server, "broker_loop_lag_seconds_count") > before, "it is measured")
    slow = 'broker_loop_lag_seconds_bucket{le="0.25"}'
    late = value(server, "broker_loop_lag_seconds_count") - value(server, slow)
    time.sleep(0.5)  # noqa: ASYNC251 - what the measure is for: it holds up the loop
    await until(
        lambda: value(server, "broker_loop_lag_seconds_count") - value(server, slow) > late, "it is seen"
    )
    assert value(server, "broker_loop_lag_max_seconds") > 0.25


async def test_limits_and_state(serve: Serve) -> None:
    server = await serve(max_connections=7, log_memory_bytes=1 << 24)
    assert value(server, "broker_max_subscribers") == 7
    assert value(server, "broker_log_limit_bytes") == 1 << 24
    assert value(server, "broker_draining") == 0
    assert value(server, "broker_workers") == 1
    assert value(server, "broker_tasks") >= 1, "the one that serves this test"
    assert 0 < value(server, "process_open_fds") <= value(server, "process_max_fds")
    assert value(server, "process_resident_memory_bytes") > 1 << 20
    text = server.node.metrics.text().decode()
    assert re.search(
        r'^broker_build_info\{compiled="(true|false)",python="3\.\S+",version="\S+"\} 1\.0$',
        text,
        re.MULTILINE,
    )
    server.node.streams.is_draining = True
    assert value(server, "broker_draining") == 1
    assert value(server, "broker_workers") == 0, "it goes"


@pytest.mark.parametrize("workers", ["own", "all", ""])
async def test_a_scrape_says_what_the_registry_has(server: Server, workers: str) -> None:
    answer = await server.request("GET", f"/metrics?workers={workers}")
    assert answer.status == 200
    names = {
        line.split("{")[0].split(" ")[0] for line in answer.body.decode().splitlines() if line[:1] != "#"
    }
    assert names == {s.name for family in server.node.metrics.registry.collect() for s in family.samples}
    assert (await server.request("GET", "/metrics?workers=some")).status == 400
