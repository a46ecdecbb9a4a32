"""Bodies that are cut, trickle, never end, lie about their length or aren't text; and the events that are published from them."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from tests.live.control_client import ControlClient, kept
from tests.live.test_bad_input import assert_problem, head_of_post, post
from tests.support.broker_process import BrokerProcess
from tests.support.http import NDJSON, RESET_ON_CLOSE, Connection, chunked, exchange, request
from tests.support.waiting import wait_for

MAX_EVENT_BYTES = 40_000
SETTINGS = {"max_event_bytes": MAX_EVENT_BYTES}
CHUNKED = "Transfer-Encoding: chunked"
ENDS = ["closes", "half-closes", "resets"]
DEPTH = 20_000  # a line of them is within the limit of a line
pytestmark = pytest.mark.usefixtures("others_are_not_disturbed")


def line(data: object) -> bytes:
    return json.dumps({"data": data}).encode() + b"\n"


def leave(connection: Connection, how: str) -> None:
    """Go in the middle of a body, and wait until the broker has noticed, as far as it can be seen."""
    if how == "half-closes":
        connection.half_close()
        assert connection.rest() == b"", "a client that has left isn't answered"
    elif how == "resets":
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.socket.close()


# Cut short


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(
    "begun",
    [
        request("POST", "/topics/TOPIC", "Content-Length: 10") + b"123456789",
        request("POST", "/topics/TOPIC", CHUNKED) + chunked(b"whole", b"chunks", end=b""),
        request("POST", "/topics/TOPIC", CHUNKED) + chunked(b"whole", end=b"5\r\npar"),
        request("POST", "/topics/TOPIC", CHUNKED) + chunked(b"whole", end=b"0\r\n"),
        request("POST", "/topics/TOPIC", "Content-Length: 10"),
        request("POST", "/topics?topic=TOPIC&topic=other", "Content-Length: 10") + b"123456789",
        request("POST", "/topics/TOPIC", "Idempotency-Key: cut", "Content-Length: 10") + b"123456789",
    ],
    ids=["length", "chunks", "chunk", "last chunk", "head", "two topics", "key"],
)
def test_nothing_of_an_event_that_was_cut_is_published(
    server: BrokerProcess, topic: str, begun: bytes, how: str
) -> None:
    with Connection(server.port) as connection:
        connection.send(begun.replace(b"TOPIC", topic.encode()))
        leave(connection, how)
    server.publish(topic, "afterwards")
    assert kept(server.port, topic) == [(None, "afterwards")]
    again = exchange(server.port, post(f"/topics/{topic}", "Idempotency-Key: cut"))
    assert (again.status, again.headers.get("idempotency-replayed")) == (201, None)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(
    "rest", [b"", b'{"da', b'{"data": "complete without its line end"}'], ids=["nothing", "part", "line"]
)
def test_lines_that_were_whole_stand_and_the_cut_one_is_not_published(
    server: BrokerProcess, topic: str, framing: str, rest: bytes, how: str
) -> None:
    whole = line("one") + line("two")
    with Connection(server.port) as connection:
        if framing == "length":
            connection.send(
                request("POST", f"/topics/{topic}", NDJSON, "Content-Length: 1000") + whole + rest
            )
        else:
            connection.send(
                request("POST", f"/topics/{topic}", NDJSON, CHUNKED) + chunked(whole + rest, end=b"")
            )
        wait_for(lambda: len(kept(server.port, topic)) == 2, "the whole lines")
        leave(connection, how)
    server.publish(topic, "afterwards")
    assert [data for _, data in kept(server.port, topic)] == ["one", "two", "afterwards"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (post("/topics/TOPIC", body=b"event"), 201),
        (request("POST", "/topics/TOPIC", CHUNKED) + chunked(b"ev", b"ent"), 201),
        (post("/topics/TOPIC", NDJSON, body=b'{"data": "event"}'), 200),
        (request("POST", "/topics/TOPIC", NDJSON, CHUNKED) + chunked(b'{"data": ', b'"event"}'), 200),
    ],
    ids=["length", "chunks", "lines", "chunked lines"],
)
def test_a_client_that_half_closes_after_its_body_is_answered(
    server: BrokerProcess, topic: str, data: bytes, status: int
) -> None:
    with Connection(server.port) as connection:
        connection.send(data.replace(b"TOPIC", topic.encode()))
        connection.half_close()
        assert connection.answer().status == status
        assert connection.rest() == b""
    assert kept(server.port, topic) == [(None, "event")]


# Slow and endless


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_body_that_trickles_byte_by_byte(
    server: BrokerProcess, control_client: ControlClient, topic: str, framing: str
) -> None:
    data = "in tiny pieces \u2713".encode()
    with Connection(server.port) as connection:
        if framing == "length":
            sent = request("POST", f"/topics/{topic}", body=data)
        else:
            sent = request("POST", f"/topics/{topic}", CHUNKED) + chunked(*(bytes([byte]) for byte in data))
        for index in range(len(sent)):
            connection.send(sent[index : index + 1])
            if index % 20 == 0:
                control_client.check()
        assert connection.answer().status == 201
    assert kept(server.port, topic) == [(None, data.decode())]


def test_lines_that_trickle_are_published_as_each_is_complete(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        connection.send(request("POST", f"/topics/{topic}", NDJSON, CHUNKED))
        for number in range(3):
            for byte in line(number):
                connection.send(chunked(bytes([byte]), end=b""))
            wait_for(lambda: len(kept(server.port, topic)) == number + 1, "the line that is complete")  # noqa: B023
        connection.send(b"0\r\n\r\n")
        answer = connection.answer()
    assert (answer.status, answer.json()["published"]) == (200, 3)


@pytest.mark.parametrize("good", [0, 3])
def test_line_that_never_ends(server: BrokerProcess, topic: str, good: int) -> None:
    with Connection(server.port) as connection:
        connection.send(
            request("POST", f"/topics/{topic}", NDJSON, CHUNKED) + chunked(line("x") * good, end=b"")
        )
        wait_for(lambda: len(kept(server.port, topic)) == good, "the lines before it")
        while not connection.received and not connection.ended:
            connection.send(chunked(b'{"data": "' + b"x" * 10_000, end=b""))
        answer = connection.answer()
    problem = assert_problem(answer, 413, "too-large")
    assert (problem["line"], problem["published"]) == (good + 1, good)
    assert answer.headers["connection"] == "close"


def test_endless_empty_lines_do_not_delay_others(server: BrokerProcess, topic: str) -> None:
    body = b"\n" * (8 << 20)
    answer = exchange(server.port, post(f"/topics/{topic}", NDJSON, body=body))
    assert (answer.status, answer.json()["published"]) == (200, 0)


def test_endless_body_of_one_event(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        connection.send(request("POST", f"/topics/{topic}", CHUNKED))
        while not connection.received and not connection.ended:
            connection.send(chunked(b"x" * 1000, end=b""))
        answer = connection.answer()
    assert_problem(answer, 413, "too-large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("filler", [b"\0", b"\n"])
def test_decompression_bomb_is_refused_before_it_inflates(
    server: BrokerProcess, topic: str, filler: bytes, lines: bool
) -> None:
    bomb = gzip.compress(filler * (10 << 20)) * 200
    before = server.resident_bytes()
    headers = ["Content-Encoding: gzip", *[NDJSON][:lines]]
    answer = exchange(server.port, post(f"/topics/{topic}", *headers, body=bomb))
    assert_problem(answer, 400, "invalid-body")
    assert server.resident_bytes() - before < 64 << 20


# Bodies that don't match their head

NO_TEXT = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xe2\x9c", b"\xfe\xff\0a", b"\x80"]


@pytest.mark.parametrize("data", NO_TEXT, ids=repr)
def test_event_that_is_no_utf8(server: BrokerProcess, topic: str, data: bytes) -> None:
    assert_problem(exchange(server.port, post(f"/topics/{topic}", body=data)), 400, "invalid-body")
    answer = exchange(
        server.port, post(f"/topics/{topic}", NDJSON, body=line("good") + b'{"data":"' + data + b'"}\n')
    )
    problem = assert_problem(answer, 400, "invalid-body")
    assert (problem["line"], problem["published"]) == (2, 1)
    assert kept(server.port, topic) == [(None, "good")]


BAD_LINES = {
    "nothing but an array": b"[]",
    "a number": b"1",
    "no data": b'{"event": "x"}',
    "two objects": b'{"data": 1}{"data": 2}',
    "garbage behind": b'{"data": 1} x',
    "not closed": b'{"data": "x',
    "single quotes": b"{'data': 1}",
    "NaN": b'{"data": NaN}',
    "Infinity": b'{"data": [-Infinity]}',
    "lone surrogate": b'{"data": "\\ud800"}',
    "lone surrogate within": b'{"data": [{"\\udfff": 1}]}',
    "raw NUL": b'{"data": "\0"}',
    "raw tab": b'{"data": "\t"}',
    "byte order mark": b'\xef\xbb\xbf{"data": 1}',
    "UTF-16": '{"data": 1}'.encode("utf-16"),
    "lists 20,000 deep": b'{"data": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "objects deep": b'{"data": ' + b'{"a":' * 7_000 + b"1" + b"}" * 7_000 + b"}",
    "lists that never close": b"[" * DEPTH,
    "objects that never close": b'{"a":' * 8_000,
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_named_and_what_came_before_it_stands(
    server: BrokerProcess, topic: str, bad: bytes
) -> None:
    body = line("one") + b"\n" + line("two") + bad + b"\n" + line("never")
    answer = exchange(server.port, post(f"/topics/{topic}", NDJSON, body=body))
    problem = assert_problem(answer, 400, "invalid-body")
    assert (problem["line"], problem["published"]) == (4, 2)
    assert [data for _, data in kept(server.port, topic)] == ["one", "two"]


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b'{"data": 1, "event": 5}', 400, "invalid-parameter"),
        (b'{"data": 1, "event": ""}', 400, "invalid-parameter"),
        (b'{"data": 1, "event": "a\\nb"}', 400, "invalid-parameter"),
        (b'{"data": 1, "event": "a\\u0000"}', 400, "invalid-parameter"),
        (b'{"data": 1, "event": "\\ud800"}', 400, "invalid-parameter"),
        (b'{"data": 1, "event": "broker.end"}', 400, "invalid-parameter"),
        (b'{"data": "' + b"x" * (MAX_EVENT_BYTES + 1) + b'"}', 413, "too-large"),
        (b'{"data": ["' + b"x" * MAX_EVENT_BYTES + b'"]}', 413, "too-large"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_event_in_a_line(server: BrokerProcess, topic: str, bad: bytes, status: int, code: str) -> None:
    answer = exchange(server.port, post(f"/topics/{topic}", NDJSON, body=line("one") + bad))
    problem = assert_problem(answer, status, code)
    assert (problem["line"], problem["published"]) == (2, 1)


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b'{"data": 1}', 400, "invalid-topic"),
        (b'{"data": 1, "topic": 5}', 400, "invalid-topic"),
        (b'{"data": 1, "topic": "a\\r\\nb"}', 400, "invalid-topic"),
        (b'{"data": 1, "topic": "a/../b"}', 400, "invalid-topic"),
        (b'{"data": 1, "topic": "\\ud800"}', 400, "invalid-topic"),
        (b'{"data": 1, "topic": "_stats"}', 403, "forbidden"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_topic_in_a_line(server: BrokerProcess, topic: str, bad: bytes, status: int, code: str) -> None:
    good = json.dumps({"data": "one", "topic": topic}).encode()
    problem = assert_problem(
        exchange(server.port, post("/topics", NDJSON, body=good + b"\n" + bad)), status, code
    )
    assert (problem["line"], problem["published"]) == (2, 1)
    assert kept(server.port, topic) == [(None, "one")]


def test_odd_lines_that_are_good_all_the_same(server: BrokerProcess, topic: str) -> None:
    """The last of a repeated key counts, as in every JSON reader; 400 levels are not too deep; numbers keep their digits, however many."""
    odd = {
        b'{"data": 1, "data": 2}': "2",
        b'{"data": "\\u0000\\u2028"}': "\0\u2028",
        b'{"data": "\\ud83d\\ude00"}': "\U0001f600",
        b'{"data": null}\r': "null",
        b' \t{"data": ""} ': "",
        b'{"data": ' + b"[" * 400 + b"]" * 400 + b"}": "[" * 400 + "]" * 400,
        b'{"data": ' + b"9" * 5000 + b"}": "9" * 5000,
        b'{"data": 1e-400}': "1e-400",
        b'{"data": [-1e400]}': "[-1e400]",
    }
    answer = exchange(server.port, post(f"/topics/{topic}", NDJSON, body=b"\n".join(odd)))
    assert answer.status == 200, answer.body
    assert [data for _, data in kept(server.port, topic)] == list(odd.values())


# Framing: what a proxy before us could understand otherwise must not be understood at all

AMBIGUOUS = {
    "length and chunks": ["Content-Length: 4", CHUNKED],
    "chunks and length": [CHUNKED, "Content-Length: 4"],
    "two lengths": ["Content-Length: 4", "Content-Length: 5"],
    "two lengths alike": ["Content-Length: 4", "Content-Length: 4"],
    "two lengths in one": ["Content-Length: 4, 4"],
    "length with a sign": ["Content-Length: +4"],
    "negative length": ["Content-Length: -4"],
    "length in hex": ["Content-Length: 0x4"],
    "length beyond 64 bits": ["Content-Length: 99999999999999999999999999"],
    "space before the colon": ["Content-Length : 4"],
    "folded": ["Transfer-Encoding:\r\n chunked"],
    "chunked twice": [CHUNKED, CHUNKED],
    "chunked, then gzip": ["Transfer-Encoding: chunked, gzip"],
    "gzip, then chunked": ["Transfer-Encoding: gzip, chunked"],
    "nearly chunked": ["Transfer-Encoding: xchunked"],
    "chunked behind a control character": ["Transfer-Encoding: \x0bchunked"],
    "identity": ["Transfer-Encoding: identity", "Content-Length: 4"],
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_framing_is_refused_and_nothing_behind_it_is_a_request(
    server: BrokerProcess, topic: str, headers: list[str]
) -> None:
    with Connection(server.port) as connection:
        hidden = post(f"/topics/hidden.{topic}", body=b"hidden")
        connection.send(request("POST", f"/topics/{topic}", *headers) + b"0\r\n\r\n" + hidden)
        answer = connection.answer()
        assert answer.status == 400, answer
        assert answer.json()["code"] in ("invalid-parameter", "invalid-body")
        assert answer.headers["connection"] == "close"
        assert connection.rest() == b""
    assert kept(server.port, topic) == kept(server.port, f"hidden.{topic}") == []


BAD_CHUNKS = {
    "size that isn't a number": b"xyz\r\nabc\r\n0\r\n\r\n",
    "negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size beyond 64 bits": b"f" * 30 + b"\r\nabc",
    "more than its size": b"3\r\nabcdef\r\n0\r\n\r\n",
    "line ends without CR": b"3\nabc\n0\n\n",
    "trailer of 100 KB": b"3\r\nabc\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    "1,000 trailers": b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("lines", [False, True], ids=["event", "lines"])
@pytest.mark.parametrize("bad", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_bad_chunk_is_answered_also_when_it_comes_late(
    server: BrokerProcess, topic: str, bad: bytes, lines: bool, late: bool
) -> None:
    first = line("one") if lines else b"begun"
    with Connection(server.port) as connection:
        connection.send(request("POST", f"/topics/{topic}", CHUNKED, *[NDJSON][:lines]))
        if late:
            connection.send(chunked(first, end=b""))
            wait_for(lambda: not lines or kept(server.port, topic), "the line before it")
            connection.send(bad)
        else:
            connection.send(bad)
        answer = connection.answer()
    assert answer.status == 400, answer
    assert answer.json()["code"] in ("invalid-parameter", "invalid-body")
    assert answer.headers["connection"] == "close"
    assert kept(server.port, topic) == ([(None, "one")] if late and lines else [])


@pytest.mark.parametrize(
    "extension", [b";a=b", b";" + b"a" * 100_000, b';a="' + b"\\" * 1000 + b'"'], ids=len
)
def test_chunk_extensions_are_skipped_or_refused(server: BrokerProcess, topic: str, extension: bytes) -> None:
    body = b"".join(b"1%b\r\n%b\r\n" % (extension, byte) for byte in (b"a", b"b", b"c")) + b"0\r\n\r\n"
    answer = exchange(server.port, request("POST", f"/topics/{topic}", CHUNKED) + body)
    assert answer.status in (201, 400)
    assert kept(server.port, topic) == ([(None, "abc")] if answer.status == 201 else [])


def test_expect_is_answered_before_the_body_is_sent(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        connection.send(request("POST", f"/topics/{topic}", "Expect: 100-continue", "Content-Length: 5"))
        assert connection.answer().status == 100
        connection.send(b"event")
        assert connection.answer().status == 201
    assert kept(server.port, topic) == [(None, "event")]


def test_expect_with_a_body_too_large(server: BrokerProcess, topic: str) -> None:
    answer = exchange(server.port, head_of_post(f"/topics/{topic}", "Expect: 100-continue", length=1 << 40))
    assert_problem(answer, 413, "too-large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("keep", [False, True])
def test_http_1_0_publisher(server: BrokerProcess, topic: str, keep: bool) -> None:
    data = b"POST /topics/%b HTTP/1.0\r\nContent-Length: 5\r\n" % topic.encode()
    with Connection(server.port) as connection:
        connection.send(data + b"Connection: keep-alive\r\n" * keep + b"\r\nevent")
        assert connection.answer().status == 201
        if keep:
            connection.send(data + b"\r\nagain")
            assert connection.answer().status == 201
        assert connection.rest() == b""
    assert len(kept(server.port, topic)) == 1 + keep
