"""The HTTP face under fuzz: whatever bytes come, never a 500, never a hang, and no effect on other clients (I9).

Each example is sent on a connection of its own, in pieces, and its sender then shuts its side down: from then on the broker
knows that nothing more comes, and must end the connection. hypothesis prints what failed, and how to repeat it.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from broker.errors import BrokerError
from broker.sse import Decoder
from broker.topics import check_publishable, check_topic, check_type
from broker.web.errors import STATUS
from tests.live.control_client import MISUSED, kept
from tests.live.test_bad_input import post
from tests.support.broker_process import BrokerProcess
from tests.support.http import JSON, NDJSON, Connection, chunked, exchange, request
from tests.support.scale import scaled

SETTINGS = {"max_event_bytes": 5000, "log_memory_bytes": 16 << 20}
FUZZ = settings(
    max_examples=scaled(500),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PATH = f"/topics/{MISUSED}"
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d\d\d) ")
pytestmark = pytest.mark.usefixtures("no_client_is_left")


GOOD = [
    post(PATH, body=b"event"),
    post(f"{PATH}?event=a", "Idempotency-Key: k", "Content-Type: text/plain", body=b"a\nb"),
    request("POST", PATH, "Transfer-Encoding: chunked") + chunked(b"some", b"chunks"),
    post(PATH, NDJSON, body=b'{"data": {"a": [1, 2.5, null]}, "event": "x"}\n{"data": "two"}\n'),
    request("POST", "/topics", NDJSON, "Transfer-Encoding: chunked")
    + chunked(b'{"topic": "misused", "da', b'ta": 1}\n'),
    post(f"/topics?topic={MISUSED}&topic=b", "Origin: http://127.0.0.1", "Expect: 100-continue"),
    request("GET", PATH, "Last-Event-ID: 1763791200123-0", "Accept: text/event-stream"),
    request("GET", f"/topics?topic={MISUSED}&topic=b&since=10m&envelope=json", "Accept: */*"),
    request("GET", f"{PATH}?since=2025-11-22T07:00:00%2B01:00&last=5"),
    request("GET", PATH, JSON),
    request("GET", "/topics?limit=5&after=a", JSON),
    request("GET", PATH, "Accept: text/html,*/*;q=0.8"),
    request("HEAD", PATH),
    request("DELETE", PATH, "Sec-Fetch-Site: same-origin"),
    request("OPTIONS", "*"),
    request("GET", "/metrics", "Connection: keep-alive"),
    request("GET", "/page/page.js"),
    b"POST %b HTTP/1.0\r\nContent-Length: 1\r\n\r\nx" % PATH.encode(),
]
TOKENS = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"?",
    b"&",
    b"=",
    b"%",
    b"%00",
]
TOKENS += [
    b"%0d%0a",
    b"%ff",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"..",
    b"{",
    b"[" * 300,
    b'"',
    b"\\",
    b"*",
    b"-1",
    b"0",
]
TOKENS += [
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"9" * 30,
]
TOKENS += [
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
]
TOKENS += [
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n",
    b"A" * 9000,
    b"\x16\x03\x01",
    b"broker.",
    b"_",
]
TOKENS += [
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"18446744073709551616-0",
    b"event: x\n",
    b"data: y\n\n",
    b"\xef\xbb\xbf",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some good requests in a row, with a few things wrong."""
    data = b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 6))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 40)))
        piece = draw(st.sampled_from(TOKENS) | st.binary(max_size=8) | st.just(data[begin:end] * 2))
        data = data[:begin] + piece + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def sent(server: BrokerProcess, data: bytes, cuts: list[int]) -> bytes:
    """The answer to `data`, sent in pieces, until the broker ends the connection."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    with Connection(server.port) as connection:
        for begin, end in pairwise(edges):
            connection.send(data[begin:end])
        connection.half_close()
        return connection.rest()


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in STATUS_LINE.findall(received)]


@FUZZ
@given(data=mutated(), cuts=st.lists(st.integers(0, 10_000), max_size=4))
@example(data=b"GET / HTTP/1.1\r\n\r\n" * 3, cuts=[])
@example(data=b"GET /healthz\r\n\r\n", cuts=[])
@example(data=GOOD[2] + GOOD[6] + GOOD[0], cuts=[20])
def test_i9_requests_with_something_wrong_change_nothing_for_others(
    server: BrokerProcess, data: bytes, cuts: list[int]
) -> None:
    received = sent(server, data, cuts)
    assert received == b"" or STATUS_LINE.match(received), received[:200]
    assert 500 not in statuses(received), received
    assert set(statuses(received)) <= {100, 200, 201, 204, *STATUS.values()}


@FUZZ
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=3))
def test_bytes_that_are_nothing(server: BrokerProcess, data: bytes, cuts: list[int]) -> None:
    assert set(statuses(sent(server, data, cuts))) <= {200, 400, 404}


ANY = st.text(max_size=30) | st.text("a.._~:@-/%?#&=+ \r\n\0*", max_size=12)


@FUZZ
@given(topic=ANY, event_type=ANY, data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_publish_takes_what_the_rules_allow_and_names_what_they_don_t(
    server: BrokerProcess, topic: str, event_type: str, data: bytes
) -> None:
    target = f"/topics/{quote(topic, safe='', errors='surrogatepass')}"
    answer = exchange(
        server.port, post(f"{target}?event={quote(event_type, safe='', errors='surrogatepass')}", body=data)
    )
    if not topic:
        assert answer.status == 404
        return
    try:
        check_publishable(topic)
        check_type(event_type)
        data.decode()
    except (BrokerError, UnicodeDecodeError) as error:
        code = error.code if isinstance(error, BrokerError) else "invalid-body"
        assert (answer.status, answer.json()["code"]) == (STATUS[code], code)
        return
    assert answer.status == 201, answer.body
    published_type, published_data = kept(server.port, topic)[-1]
    assert published_type == event_type
    assert published_data == data.decode().replace("\r\n", "\n").replace("\r", "\n")


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
LINE = st.one_of(
    st.fixed_dictionaries({"data": JSON_VALUE}, optional={"event": ANY | JSON_VALUE, "topic": ANY}).map(
        json.dumps
    ),
    JSON_VALUE.map(json.dumps),
    st.text('{}[]":,\\dateu0123.e- ', max_size=20),
).map(str.encode)


@FUZZ
@given(
    lines=st.lists(LINE | st.binary(max_size=10), max_size=6), cuts=st.lists(st.integers(1, 40), max_size=8)
)
def test_lines_are_all_published_or_all_before_the_first_bad_one(
    server: BrokerProcess, lines: list[bytes], cuts: list[int]
) -> None:
    exchange(server.port, request("DELETE", "/topics/lines"))
    body = b"\n".join(lines)
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[begin:end] for begin, end in pairwise(edges)]
    answer = exchange(
        server.port, request("POST", "/topics/lines", NDJSON, "Transfer-Encoding: chunked") + chunked(*pieces)
    )
    outcome = answer.json()
    assert answer.status in (200, 400, 413), outcome
    assert len(kept(server.port, "lines")) == outcome["published"]
    full = [number for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if answer.status == 200:
        assert outcome["published"] == len(full)
    else:
        assert full[outcome["published"]] == outcome["line"]


@FUZZ
@given(
    topics=st.lists(st.sampled_from(["lines", "b", "a b"]) | ANY, min_size=1, max_size=4),
    start=st.sampled_from(["lastEventId", "since", "last", "envelope", "nothing"]),
    value=ANY | st.from_regex(r"\d{1,22}-\d{1,22}|\d{1,9}[smh]|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[Zz]"),
    header=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30),
)
def test_subscribe_begins_or_explains_the_error(
    server: BrokerProcess, topics: list[str], start: str, value: str, header: str | None
) -> None:
    query = "&".join(f"topic={quote(topic, safe='')}" for topic in topics)
    headers = [] if header is None else [f"Last-Event-ID: {header}"]
    with Connection(server.port) as connection:
        connection.send(request("GET", f"/topics?{query}&{start}={quote(value, safe='')}", *headers))
        (status,) = statuses(connection.stream_head())
        connection.half_close()
        body = connection.rest()
    if not all(map(_is_topic, topics)):
        assert status == 400
    elif start in ("lastEventId", "nothing"):
        assert status == 200, "a bad cursor is never an error"
    assert status in (200, 400)
    if status == 200:
        assert body.startswith(b"retry: ")
        types = {event.type or "" for event in Decoder().feed(body)}
        assert {kind for kind in types if kind.startswith("broker.")} <= {"broker.open", "broker.gap"}


def _is_topic(text: str) -> bool:
    try:
        return bool(check_topic(text))
    except BrokerError:
        return False
