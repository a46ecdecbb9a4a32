"""The lines about requests: refusals with their reason, administrators' actions, and never a token or a payload."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator

import pytest

from tests.support.distant_store import keep_at_a_distance
from tests.support.local_broker import Clock, Serve, serving
from tests.support.log_lines import fields, lines
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(params=["front", "aiohttp"])
async def start(
    request: pytest.FixtureRequest, clock: Clock, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Serve]:
    """Starts a broker with the settings given, served in either way."""
    caplog.set_level(logging.DEBUG)
    access_log = logging.getLogger("broker.access")
    async with serving(clock, access_log, by_aiohttp=request.param == "aiohttp") as start:
        yield start


async def test_a_refused_publish(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start(max_event_bytes=10)
    answer = await server.request("POST", "/topics/news", b"secret payload\nin lines")
    assert answer.status == 413
    (line,) = lines(caplog, "publish refused")
    assert line == {
        "reason": "too-large",
        "status": 413,
        "method": "POST",
        "path": "/topics/news",
        "address": "127.0.0.1",
        "request_id": answer.headers["x-request-id"],
    }


async def test_the_id_of_a_request_is_the_senders(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start()
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    for headers, expected in (({"traceparent": parent}, TRACE), ({"x_request_id": "mine"}, "mine")):
        answer = await server.request("POST", "/topics/a?evnt=x", b"", **headers)
        assert (answer.status, answer.headers["x-request-id"]) == (400, expected)
    assert [line["request_id"] for line in lines(caplog, "publish refused")] == [TRACE, "mine"]
    assert lines(caplog, "publish refused")[0]["parameter"] == "evnt"


async def test_an_answer_that_succeeds_has_no_id(start: Serve) -> None:
    server = await start()
    answer = await server.request("POST", "/topics/a", b"x", x_request_id="mine")
    assert (answer.status, "x-request-id" in answer.headers) == (201, False)


async def test_access_denied(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Without a token, with a bad one, and with one that doesn't allow it."""
    server = await start(jwt_secrets=[SECRET])
    allowed = HMAC.token(sub="ann", publish=["a"])
    for token, status in ((None, 401), ("bad", 401), (allowed, 403)):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = await server.request("POST", "/topics/b", b"x", **headers)
        assert answer.status == status
    denied = lines(caplog, "access denied")
    assert [(line["reason"], line["status"], line.get("subject")) for line in denied] == [
        ("no-token", 401, None),
        ("malformed-token", 401, None),
        ("topics", 403, "ann"),
    ]
    assert "may not publish to b" in str(denied[2]["why"])
    assert lines(caplog, "publish refused") == []


async def test_another_sites_page_is_denied(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start()
    answer = await server.request("POST", "/topics/b", b"x", origin="https://evil.example")
    assert answer.status == 403
    assert [line["reason"] for line in lines(caplog, "access denied")] == ["origin"]


async def test_admin_actions(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start(jwt_secrets=[SECRET], log_lines_per_second=0.1)
    bearer = {"authorization": f"Bearer {HMAC.token(sub='root', admin=True)}", "x_request_id": "r1"}
    for _ in range(3):
        await server.request("POST", "/admin/disconnect", b'{"topic": "a"}', **bearer)
    await server.request("POST", "/admin/revoke", b'{"sub": "ann"}', **bearer)
    await server.request("DELETE", "/topics/a", **bearer)
    who = {"by": "root", "address": "127.0.0.1", "request_id": "r1"}
    assert lines(caplog, "admin action") == [
        *[{"reason": "disconnect", "of_topic": "a", **who}] * 3,
        {"reason": "revoke", "of_sub": "ann", **who},
        {"reason": "delete", "of_topic": "a", **who},
    ]


async def test_a_refused_order(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start()
    assert (await server.request("POST", "/admin/revoke", b"{}")).status == 400
    assert [line["reason"] for line in lines(caplog, "request refused")] == ["invalid-body"]
    assert lines(caplog, "admin action") == []


async def test_a_refused_stream(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start(max_connections=1)
    await server.subscribe("/topics/a")
    assert (await server.request("GET", "/topics/b")).status == 503
    await server.request("GET", "/topics/c", accept="text/event-stream")
    assert lines(caplog, "stream refused") == [
        {"reason": "overloaded", "topics": ("b",)},
        {"reason": "overloaded", "topics": ("c",)},
    ]


async def test_behind_a_trusted_proxy_the_address_is_the_clients(
    start: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(trusted_proxies="127.0.0.1")
    stream = await server.subscribe("/topics/a", x_forwarded_for="198.51.100.7, 203.0.113.9")
    await server.request("POST", "/topics/a?evnt=1", b"", x_forwarded_for="2001:db8::1")
    await server.request("POST", "/topics/a?end=true", b"")
    await stream.end()
    assert lines(caplog, "publish refused")[0]["address"] == "2001:db8::1"
    await until(lambda: lines(caplog, "stream closed"), "the line of the stream")
    assert lines(caplog, "stream closed")[0]["address"] == "203.0.113.9"


TOKEN, PAYLOAD = "s3cret-t0ken", "payl0ad"


async def test_no_line_has_a_token_or_a_payload(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A bad token and a payload in every place where a client can send one, however the request ends."""
    server = await start(jwt_secrets=[SECRET], max_event_bytes=40, anonymous="publish,subscribe")
    body = f"{PAYLOAD}\n{PAYLOAD} ERROR broker: forged\n".encode()
    places: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        (f"?access_token={TOKEN}", {}),
        (f"?a=%26access%5ftoken={TOKEN}&access%5Ftoken={TOKEN}", {}),
        ("", {"authorization": f"Bearer {TOKEN}"}),
        ("", {"authorization": f"Basic {TOKEN}"}),
        ("", {"cookie": f"broker_token={TOKEN}"}),
        ("", {"cookie": f"broker_token={TOKEN}; broker_token={TOKEN}2"}),
    ]
    for query, headers in places:
        for method, path in (
            ("POST", "/topics/a"),
            ("POST", "/topics"),
            ("DELETE", "/topics/a"),
            ("PUT", "/x"),
        ):
            await server.request(method, path + query, body, **headers)
            await server.request(method, path + query, body * 10, **headers)
        for media_type in ("application/x-ndjson", "text/event-stream"):
            await server.request("POST", f"/topics/a{query}", body, content_type=media_type, **headers)
        await server.request("POST", f"/admin/revoke{query}", body, **headers)
        await server.request("GET", f"/topics/a/events{query}", **headers)
        await server.request("GET", f"/metrics{query}", **headers)
    assert lines(caplog, "access denied")
    assert lines(caplog, "publish refused")
    for record in caplog.records:
        if record.name.startswith("broker"):
            assert TOKEN not in str(vars(record))
            assert PAYLOAD not in str(vars(record))


async def test_a_defect_is_logged_without_its_token(start: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = await start()

    async def broken() -> None:
        raise RuntimeError("a")

    keep_at_a_distance(server.node, broken)
    answer = await server.request(
        "GET", f"/topics/a?access_token={TOKEN}", accept="application/json", x_request_id="mine"
    )
    assert (answer.status, answer.headers["x-request-id"]) == (500, "mine")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "defect in the handler of GET /topics/a"
    assert fields(record)["request_id"] == "mine"
    assert TOKEN not in str(vars(record))


async def test_each_refusal_has_an_id_of_its_own(start: Serve) -> None:
    server = await start()
    made = set()
    for _ in range(3):
        answer = await server.request("POST", "/topics/a..b", b"x")
        made.add(answer.headers["x-request-id"])
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in made)
