"""Bad requests of every kind get a clear answer, and don't affect other clients (contract §5, I9)."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request

import pytest

from broker.sse import Decoder
from broker.web.values import MAX_PARAMETERS
from tests.live.control_client import MISUSED, kept
from tests.support.broker_process import BrokerProcess
from tests.support.http import JSON, NDJSON, Answer, Connection, exchange, request
from tests.support.waiting import wait_for

MAX_EVENT_BYTES = 10_000
KEY_MEMORY_BYTES = 20_000
SETTINGS = {
    "max_event_bytes": MAX_EVENT_BYTES,
    "idempotency_memory_bytes": KEY_MEMORY_BYTES,
    "retention_events": 100_000,
}
PATH = f"/topics/{MISUSED}"
LONG = "x" * 100_000
CR_LF = "%0d%0aX-Injected:%20yes%0d%0a%0d%0adata:%20evil"
pytestmark = pytest.mark.usefixtures("others_are_not_disturbed")


def assert_problem(answer: Answer, status: int, code: str) -> dict[str, object]:
    """Fail unless it is the problem that the contract wants; returns its members."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert isinstance(problem, dict)
    assert (problem["status"], problem["code"]) == (status, code)
    assert isinstance(problem["title"], str)
    assert problem["title"]
    assert len(problem["detail"]) > 10, "the detail says what to do about it"
    for inside in ("Traceback", ".py", "aiohttp", "0x"):
        assert inside not in problem["detail"]
    return problem


def post(target: str | bytes = PATH, *headers: str | bytes, body: bytes = b"x") -> bytes:
    return request("POST", target, *headers, body=body)


def head_of_post(target: str | bytes = PATH, *headers: str | bytes, length: int = 10) -> bytes:
    """A request without the body that it announces."""
    return request("POST", target, *headers, f"Content-Length: {length}")


# The error table. The head alone shows each of these errors, so the answer must come before the body.

HEADS = {
    "topic with two dots": (head_of_post("/topics/.."), 400, "invalid-topic"),
    "topic with encoded dots": (head_of_post("/topics/%2e%2e"), 400, "invalid-topic"),
    "topic with an empty segment": (head_of_post("/topics/a..b"), 400, "invalid-topic"),
    "topic with an encoded slash": (head_of_post("/topics/a%2Fb"), 400, "invalid-topic"),
    "topic with an encoded NUL": (head_of_post("/topics/a%00b"), 400, "invalid-topic"),
    "topic with an encoded CR LF": (head_of_post(f"/topics/a{CR_LF}"), 400, "invalid-topic"),
    "topic with an encoded space": (head_of_post("/topics/a%20b"), 400, "invalid-topic"),
    "topic with braces": (head_of_post("/topics/{a}"), 400, "invalid-topic"),
    "topic that isn't UTF-8": (head_of_post("/topics/%ff"), 400, "invalid-topic"),
    "topic that is a surrogate": (head_of_post("/topics/%ed%a0%80"), 400, "invalid-topic"),
    "topic beyond ASCII": (head_of_post("/topics/%C3%A9"), 400, "invalid-topic"),
    "topic of 201 characters": (head_of_post(f"/topics/{'a' * 201}"), 400, "invalid-topic"),
    "topic that is a pattern": (head_of_post("/topics/a.*"), 400, "invalid-topic"),
    "one bad topic of two": (head_of_post("/topics?topic=a&topic=a%0a"), 400, "invalid-topic"),
    "no topic at all": (head_of_post("/topics"), 400, "invalid-parameter"),
    "33 topics": (
        head_of_post("/topics?" + "&".join(f"topic=a{n}" for n in range(33))),
        400,
        "invalid-parameter",
    ),
    "type with CR LF": (head_of_post(f"{PATH}?event=a{CR_LF}"), 400, "invalid-parameter"),
    "type with NUL": (head_of_post(f"{PATH}?event=a%00"), 400, "invalid-parameter"),
    "type that isn't UTF-8": (head_of_post(f"{PATH}?event=%FF"), 400, "invalid-parameter"),
    "type that is a surrogate": (head_of_post(f"{PATH}?event=%ED%A0%80"), 400, "invalid-parameter"),
    "empty type": (head_of_post(f"{PATH}?event="), 400, "invalid-parameter"),
    "type of 101 characters": (head_of_post(f"{PATH}?event={'x' * 101}"), 400, "invalid-parameter"),
    "type of the broker's own": (head_of_post(f"{PATH}?event=broker.gap"), 400, "invalid-parameter"),
    "empty key": (head_of_post(PATH, "Idempotency-Key: "), 400, "invalid-parameter"),
    "key with a space": (head_of_post(PATH, "Idempotency-Key: a b"), 400, "invalid-parameter"),
    "key beyond ASCII": (head_of_post(PATH, "Idempotency-Key: é"), 400, "invalid-parameter"),
    "key that isn't UTF-8": (head_of_post(PATH, b"Idempotency-Key: \xff"), 400, "invalid-parameter"),
    "key of 201 characters": (head_of_post(PATH, "Idempotency-Key: " + "x" * 201), 400, "invalid-parameter"),
    "key with a streamed body": (head_of_post(PATH, NDJSON, "Idempotency-Key: a"), 400, "invalid-parameter"),
    "unknown Expect": (head_of_post(PATH, "Expect: 200-ok"), 400, "invalid-parameter"),
    "topic of the broker's own": (head_of_post("/topics/_stats"), 403, "forbidden"),
    "foreign Origin": (head_of_post(PATH, "Origin: https://evil.example"), 403, "forbidden"),
    "foreign Origin, our address in it": (
        head_of_post(PATH, "Origin: http://127.0.0.1.evil.example"),
        403,
        "forbidden",
    ),
    "Origin of another port": (head_of_post(PATH, "Origin: http://127.0.0.1:1"), 403, "forbidden"),
    "Origin null": (head_of_post(PATH, "Origin: null"), 403, "forbidden"),
    "Origin that isn't an address": (head_of_post(PATH, "Origin: http://[::1"), 403, "forbidden"),
    "Origin that isn't a name": (head_of_post(PATH, "Origin: http://\u2100.example"), 403, "forbidden"),
    "Origin that isn't UTF-8": (head_of_post(PATH, b"Origin: http://\xff"), 403, "forbidden"),
    "cross-site": (head_of_post(PATH, "Sec-Fetch-Site: cross-site"), 403, "forbidden"),
    "cross-site DELETE": (
        request("DELETE", PATH, "Sec-Fetch-Site: cross-site", "Content-Length: 10"),
        403,
        "forbidden",
    ),
    "DELETE of the broker's own": (
        request("DELETE", "/topics/_stats", "Content-Length: 10"),
        403,
        "forbidden",
    ),
    "no such path": (head_of_post("/nowhere"), 404, "not-found"),
    "no such path below topics": (head_of_post("/topics/a/b"), 404, "not-found"),
    "PUT": (request("PUT", PATH, "Content-Length: 10"), 405, "method-not-allowed"),
    "PATCH": (request("PATCH", "/topics", "Content-Length: 10"), 405, "method-not-allowed"),
    "POST to a page": (head_of_post("/healthz"), 405, "method-not-allowed"),
    "event too large": (head_of_post(length=MAX_EVENT_BYTES + 1), 413, "too-large"),
    "event far too large": (head_of_post(length=1 << 50), 413, "too-large"),
    "compressed body": (head_of_post(PATH, "Content-Encoding: gzip"), 400, "invalid-body"),
    "compressed lines": (head_of_post(PATH, NDJSON, "Content-Encoding: deflate"), 400, "invalid-body"),
    "body in an unknown form": (head_of_post(PATH, "Content-Encoding: foo"), 400, "invalid-body"),
}


@pytest.mark.parametrize(("data", "status", "code"), HEADS.values(), ids=HEADS.keys())
def test_what_the_head_decides_is_answered_without_the_body(
    server: BrokerProcess, data: bytes, status: int, code: str
) -> None:
    answer = exchange(server.port, data)
    assert_problem(answer, status, code)
    assert answer.headers["connection"] == "close"
    assert "x-injected" not in answer.headers
    if status == 405:
        assert set(answer.headers["allow"].split(", ")) & {"GET", "POST"}


NO_HTTP = {
    "header of 100 KB": post(PATH, f"X: {LONG}"),
    "header's name of 100 KB": post(PATH, f"{LONG}: x"),
    "100,000 headers": post(PATH, *["X: y"] * 100_000),
    "10,000 query parameters": post(PATH + "?" + "&".join(f"k{n}=v" for n in range(10_000))),
    "topic of 100 KB": post(f"/topics/{LONG}"),
    "raw NUL in the topic": post(b"/topics/a\0b"),
    "raw LF in the topic": post(b"/topics/a\nb"),
    "raw CR LF in the topic": post(b"/topics/a\r\nX-Injected: yes\r\n"),
    "raw bytes beyond ASCII in the topic": post(b"/topics/\xff"),
    "raw bytes beyond ASCII in the type": post(b"/topics/a?event=\xc3\xa9"),
    "raw CR in a key": post(PATH, b"Idempotency-Key: a\rb"),
    "raw LF in a key": post(PATH, b"Idempotency-Key: a\nb"),
    "raw NUL in a key": post(PATH, b"Idempotency-Key: a\0b"),
    "raw CR in a cursor": request("GET", PATH, b"Last-Event-ID: 1-1\rX: y"),
    "raw LF in a cursor": request("GET", PATH, b"Last-Event-ID: 1-1\nX: y"),
    "raw NUL in a cursor": request("GET", PATH, b"Last-Event-ID: 1-1\0"),
    "header folded over two lines": post(PATH, "X: a\r\n b"),
    "space before the colon": post(PATH, "X : y"),
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": request("GET", "/healthz", "Host: evil.example"),
    "no version": b"GET /healthz\r\n\r\n",
    "unknown version": b"GET /healthz HTTP/3.7\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"x" * 600,
    "unknown method": b"BREW /topics/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "garbage": b"\xff" * 10_000 + b"\r\n\r\n",
    "an address with a broken host": b"GET http://[/topics/a HTTP/1.1\r\nHost: a\r\n\r\n",
    "an address with a broken port": b"GET http://a:b/topics/a HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_bytes_that_are_not_http_are_answered_and_the_connection_ended(
    server: BrokerProcess, data: bytes
) -> None:
    with Connection(server.port) as connection:
        connection.send(data)
        answer = connection.answer()
        assert_problem(answer, 400, "invalid-parameter")
        assert answer.headers["connection"] == "close"
        assert "x-injected" not in answer.headers
        assert connection.rest() == b""


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8080", "10.0.0.1.evil.example"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_foreign_host_on_a_loopback_address(server: BrokerProcess, method: str, host: str) -> None:
    data = request(method, PATH).replace(b"Host: 127.0.0.1", b"Host: " + host.encode())
    with Connection(server.port) as connection:
        connection.send(data)
        if method == "HEAD":
            assert connection.until(b"\r\n").startswith(b"HTTP/1.1 403 ")
        else:
            assert_problem(connection.answer(), 403, "forbidden")


@pytest.mark.parametrize(
    "header",
    ["Origin: http://127.0.0.1:{port}", "Origin: HTTP://127.0.0.1:{port}", "Sec-Fetch-Site: same-origin"],
)
def test_own_page_may_publish(server: BrokerProcess, header: str) -> None:
    own = f"127.0.0.1:{server.port}"
    data = post(PATH, header.format(port=server.port)).replace(b"Host: 127.0.0.1", b"Host: " + own.encode())
    assert exchange(server.port, data).status == 201


# Fields of a subscriber's request


BAD_START = [
    "since=",
    "since=x",
    "since=%0a",
    "since=%FF",
    f"since=1-1{CR_LF}",
    "since=-5s",
    "since=2025-01-01",
]
BAD_START += ["last=", "last=-1", "last=x", "last=%0a1", "last=1000001", "last=%D9%A3", "envelope=xml"]


@pytest.mark.parametrize("query", BAD_START)
def test_bad_parameter_of_a_subscriber(server: BrokerProcess, query: str) -> None:
    assert_problem(exchange(server.port, request("GET", f"{PATH}?{query}")), 400, "invalid-parameter")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=", "limit=-1", "limit=%D9%A3"])
def test_bad_limit_of_the_list(server: BrokerProcess, query: str) -> None:
    assert_problem(exchange(server.port, request("GET", f"/topics?{query}", JSON)), 400, "invalid-parameter")


CURSORS: list[str | bytes] = [
    b"Last-Event-ID: \xff\xfe",
    b"Last-Event-ID: " + b"x" * 8000,
    b"Last-Event-ID: 1-1%0d%0a%0d%0adata: evil",
    "Last-Event-ID: 1-1\u2028data: evil",
    "Last-Event-ID: 1-1\x85data: evil".encode("latin-1"),
    b"Last-Event-ID: " + b"9" * 5000 + b"-0",
    b"Last-Event-ID: 18446744073709551616-0",
    b'Last-Event-ID: ","reason":"none"}',
]
QUERIES = [
    f"1-1{CR_LF}",
    "%0A%0Adata:%20evil",
    "%00",
    "%FF",
    "%ED%A0%80",
    "%E2%80%A8data:%20evil",
    "x" * 8000,
]


@pytest.mark.parametrize("enveloped", ["", "envelope=json&"])
@pytest.mark.parametrize("number", range(len(CURSORS) + len(QUERIES)))
def test_bad_cursor_is_a_gap_and_never_an_error_nor_a_line_of_its_own(
    server: BrokerProcess, number: int, enveloped: str
) -> None:
    """EventSource gives up at an error; and the answer must not repeat what a client sends."""
    if number < len(CURSORS):
        data = request("GET", f"/topics/nothing?{enveloped}", CURSORS[number])
    else:
        data = request("GET", f"/topics/nothing?{enveloped}lastEventId={QUERIES[number - len(CURSORS)]}")
    with Connection(server.port) as connection:
        connection.send(data)
        head = connection.stream_head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Injected" not in head
        opening = connection.until(b"\n\n")
        assert opening.count(b"\n") == len(b"retry :: event data".split()) + 1, opening
        (event,) = Decoder().feed(opening)
        assert event.type == "broker.gap"
        assert b"data: evil\n" not in opening
        server.publish("nothing", "next")
        assert b"data: " in connection.until(b"\n\n")
    exchange(server.port, request("DELETE", "/topics/nothing"))


def test_what_an_event_contains_never_ends_it(server: BrokerProcess) -> None:
    data = "a\r\rid: 9-9\n\nevent: broker.end\ndata: {}\n\n\u2028\x85retry: 1\r\n\r\n: \0"
    server.publish("content", data.encode())
    assert kept(server.port, "content") == [(None, data.replace("\r\n", "\n").replace("\r", "\n"))]


@pytest.mark.parametrize(
    "accept", [b"\xff", b",;q=,;;=", b"text/html;q=nan", b"*/*;q=1e999", b"a" * 8000, b""]
)
def test_odd_accept_gets_the_stream_or_the_page(server: BrokerProcess, accept: bytes) -> None:
    with Connection(server.port) as connection:
        connection.send(request("GET", PATH, b"Accept: " + accept))
        assert connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_many_parameters_within_a_line_are_read_or_refused_in_time(server: BrokerProcess) -> None:
    def publish(count: int) -> Answer:
        return exchange(server.port, post("/topics?" + "&".join(["topic=a"] * count)))

    assert publish(MAX_PARAMETERS).status == 201
    assert_problem(publish(MAX_PARAMETERS + 1), 400, "invalid-parameter")
    assert exchange(server.port, post(PATH + "?" + "&" * 8000)).status == 400
    assert exchange(server.port, post(PATH + "?" + "%" * 8000)).status in (201, 400)


# Errors that one request alone doesn't show


def test_idempotency_keys_beyond_their_memory_are_refused_with_retry_after(server: BrokerProcess) -> None:
    answer = None
    for number in range(KEY_MEMORY_BYTES // 200):
        answer = exchange(server.port, post("/topics/keyed", f"Idempotency-Key: {number:0200}"))
        if answer.status != 201:
            break
    assert answer is not None
    assert_problem(answer, 429, "rate-limited")
    assert int(answer.headers["retry-after"]) > 0
    again = exchange(server.port, post("/topics/keyed", f"Idempotency-Key: {0:0200}"))
    assert (again.status, again.headers.get("idempotency-replayed")) == (201, "true")
    assert exchange(server.port, post("/topics/keyed")).status == 201, "without a key as ever"


def test_over_capacity_a_browser_comes_back_by_itself_and_others_get_a_delay() -> None:
    with BrokerProcess(max_connections=1) as full, Connection(full.port) as first:
        first.send(request("GET", PATH))
        first.until(b"\n\n")
        answer = exchange(full.port, request("GET", PATH))
        assert_problem(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
        with Connection(full.port) as browser:
            browser.send(request("GET", PATH, "Accept: text/event-stream"))
            head, body = browser.stream_head(), browser.rest()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"Content-Type: text/event-stream\r\n" in head
            assert body.startswith(b"retry: ")
            assert int(body.split()[1]) >= 5000, "a long delay"
        full.publish(MISUSED, "still here")
        assert b"data: still here\n" in first.until(b"\n\n")
        assert exchange(full.port, request("GET", PATH, JSON)).status == 200


def test_while_it_drains_new_subscribers_are_refused_and_publishers_are_not() -> None:
    with BrokerProcess(drain_notice_seconds=30) as draining, Connection(draining.port) as first:
        first.send(request("GET", PATH))
        first.until(b"\n\n")
        os.kill(draining.pid, signal.SIGTERM)
        wait_for(lambda: not _ready(draining), "the broker not to be ready")
        answer = exchange(draining.port, request("GET", PATH))
        assert_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        draining.publish(MISUSED, "last words")
        assert b"data: last words\n" in first.until(b"\n\n")


def _ready(broker: BrokerProcess) -> bool:
    try:
        with urllib.request.urlopen(f"{broker.url}/readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
