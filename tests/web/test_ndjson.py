"""Bodies of JSON lines, over HTTP."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker import sse
from broker.auth.grants import FULL_ACCESS
from broker.errors import InvalidBody, TooLarge
from broker.web.ndjson import ESCAPE_BYTES, LINE_SLACK_BYTES, NdjsonBody
from tests.support.http import read_head
from tests.support.local_broker import Serve, Server
from tests.web.streamed_body import kept, lines


async def test_lines(server: Server) -> None:
    body = '{"data": "one"}\n{"data": {"a": [1, 2.5, null]}, "event": "obj"}\r\n\n{"data": "", "event": null, "more": 1}\n{"data": 12345678901234567890123}'
    answer = await lines(server, body)
    assert answer.status == 200
    found = await kept(server)
    assert found == [
        (None, "one"),
        ("obj", '{"a":[1,2.5,null]}'),
        (None, ""),
        (None, "12345678901234567890123"),
    ]
    body_ = answer.json()
    assert (body_["topic"], body_["published"]) == ("news", 4)
    stream = await server.subscribe("/topics/news?since=earliest")
    await stream.event(4)
    assert (stream.events[0].id, stream.events[3].id) == (body_["first_id"], body_["last_id"])


async def test_no_lines(server: Server) -> None:
    answer = await lines(server, "\n\n")
    assert answer.json() == {"topic": "news", "published": 0, "first_id": None, "last_id": None}


async def test_a_line_is_published_before_the_next_one_comes(server: Server) -> None:
    stream = await server.subscribe("/topics/news")
    await stream.event(1)
    reader, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(3):
        line = b'{"data": "%d"}\n' % number
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        assert await stream.data(number + 1) == [str(n) for n in range(number + 1)]
    writer.write(b"0\r\n\r\n")
    status, headers = await read_head(reader)
    assert status == 200
    assert json.loads(await reader.readexactly(int(headers["content-length"])))["published"] == 3


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("nonsense", "invalid-body"),
        ("[1]", "invalid-body"),
        ('"text"', "invalid-body"),
        ("{}", "invalid-body"),
        ('{"data": 1} {"data": 2}', "invalid-body"),
        ('{"data": NaN}', "invalid-body"),
        ('{"data": 1e999}', "invalid-body"),
        ('{"data": "\\ud800"}', "invalid-body"),
        ('{"data": ["\\ud800"]}', "invalid-body"),
        ('{"data": ' + "[" * 100_000 + "]" * 100_000 + "}", "invalid-body"),
        ('{"data": ' + "9" * 5000 + "}", "invalid-body"),
        ('{"data": "x", "event": "broker.end"}', "invalid-parameter"),
        ('{"data": "x", "event": 5}', "invalid-parameter"),
        ('{"data": "x", "event": "\\ud800"}', "invalid-parameter"),
        ('{"data": "x", "event": "a\\nb"}', "invalid-parameter"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_bad_line(server: Server, bad: str, code: str) -> None:
    answer = await lines(server, f'{{"data": "1"}}\n\n{bad}\n{{"data": "never"}}\n')
    assert answer.status == 400
    problem = answer.json()
    assert (problem["code"], problem["line"], problem["published"]) == (code, 3, 1)
    assert await kept(server) == [(None, "1")]


async def test_bad_utf8_in_a_line(server: Server) -> None:
    answer = await lines(server, b'{"data": "1"}\n{"data": "\xff"}\n')
    assert (answer.status, answer.json()["line"]) == (400, 2)


async def test_line_too_large(serve: Serve) -> None:
    server = await serve(max_event_bytes=100)
    answer = await lines(server, '{"data": "1"}\n' + json.dumps({"data": "x" * 101}) + "\n")
    assert (answer.status, answer.json()["line"], answer.json()["published"]) == (413, 2, 1)


async def test_line_that_never_ends(serve: Serve) -> None:
    server = await serve(max_event_bytes=100)
    reader, _writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b"Content-Length: 1000000000\r\n\r\n" + b'{"data": "' + b"x" * 10_000
    )
    status, headers = await read_head(reader)
    assert (status, headers["connection"]) == (413, "close")


async def test_cut_body_keeps_whole_lines_only(server: Server) -> None:
    _, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b'Content-Length: 1000\r\n\r\n{"data": "whole"}\n{"data": "c"}'
    )
    writer.write_eof()
    stream = await server.subscribe("/topics/news?since=earliest")
    assert await stream.data(1) == ["whole"]
    await server.publish("news", "after")
    assert await stream.data(2) == ["whole", "after"]


async def test_lines_to_several_topics(server: Server) -> None:
    body = '{"topic": "a", "data": "1"}\n{"topic": "b", "data": "2"}\n{"topic": "a", "data": "3"}\n'
    answer = await lines(server, body, "/topics")
    assert (answer.status, answer.json()) == (200, {"published": 3})
    assert await kept(server, "a") == [(None, "1"), (None, "3")]
    for line, status in (
        ('{"data": "x"}', 400),
        ('{"topic": "..", "data": "x"}', 400),
        ('{"topic": "_x", "data": "x"}', 403),
    ):
        answer = await lines(server, '{"topic": "c", "data": "1"}\n' + line, "/topics")
        assert (answer.status, answer.json()["line"], answer.json()["published"]) == (status, 2, 1)


async def test_many_blank_lines_let_other_requests_run(server: Server) -> None:
    reader, writer = await server.send(
        b"POST /topics/news HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b"Content-Length: 200000\r\n\r\n"
    )
    writer.write(b"\n" * 200_000)
    flood = asyncio.ensure_future(read_head(reader))
    answered = 0
    while not flood.done():
        assert (await server.request("GET", "/healthz")).status == 200
        answered += 1
    assert answered > 10
    assert flood.result()[0] == 200


MOST = 1000


def items(line: bytes) -> list[tuple[str, bytes] | None]:
    return list(NdjsonBody("a", FULL_ACCESS, MOST).items(line + b"\n"))


@pytest.mark.parametrize("piece", [b"[],", b"0,", b'{"a":0},', b'"",', "€".encode()])
def test_a_line_that_must_be_too_long_is_not_parsed(piece: bytes) -> None:
    """1.5 MB of brackets took 0.4 s, and were refused then. This line isn't JSON, but is refused as too large."""
    whole = piece * ((MOST + LINE_SLACK_BYTES) // len(piece))
    with pytest.raises(TooLarge):
        items(b'{"data": [' + whole)
    with pytest.raises(InvalidBody):
        items(b'{"data": [' + whole[:-100])


@pytest.mark.parametrize(
    ("written", "data"),
    [
        (rb"\u0001", b"\x01"),
        (rb"\n", b"\n"),
        (rb"\\\u0041", rb"\A"),
    ],
)
def test_a_line_of_escapes_may_be_as_long_as_they_are(written: bytes, data: bytes) -> None:
    count = MOST // len(data)
    item = "a", sse.lines(data * count)
    assert items(b'{"data": "' + written * count + b'"}') == [item]
    spaces = b" " * (ESCAPE_BYTES * MOST - len(written) * count)
    assert items(b'{"data": ' + spaces + b'"' + written * count + b'"}') == [item]
    with pytest.raises(TooLarge):
        items(b'{"data": "' + written * (MOST // len(data) + 1) + b'"}')


def test_spaces_between_tokens_do_not_count() -> None:
    spaced = b"[" + b", ".join(b"1" for _ in range(MOST // 2 - 1)) + b"]"
    (item,) = items(b'{"data":' + spaced + b" " * 4 * MOST + b"}")
    assert item is not None
    assert item[1] == b"data: " + spaced.replace(b" ", b"") + b"\n"
