"""Bodies of JSON lines, over HTTP."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import sse
from broker.auth.grants import FULL_ACCESS
from broker.errors import InvalidBody, TooLarge
from broker.stores.base import Item
from broker.web.ndjson import ESCAPE_BYTES, LINE_SLACK_BYTES, MAX_MEMBERS, NdjsonBody
from tests.support.http import read_head
from tests.support.local_broker import Serve, Server
from tests.web.streamed_body import NDJSON, StreamedBody, kept, lines


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
        ('{"data": "\\ud800"}', "invalid-body"),
        ('{"data": ["\\ud800"]}', "invalid-body"),
        ('{"data": ' + "[" * 100_000 + "]" * 100_000 + "}", "invalid-body"),
        ('{"data": 01}', "invalid-body"),
        ('{"data": 1.}', "invalid-body"),
        ('{"data": +1}', "invalid-body"),
        ('{"data": -}', "invalid-body"),
        ('{"data": [-Infinity]}', "invalid-body"),
        ('{"data": "x", "event": 5.0}', "invalid-parameter"),
        ('{"data": "x", "event": {}}', "invalid-parameter"),
        ('\ufeff\ufeff{"data": 1}', "invalid-body"),
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


def decoded(line: str, max_event_bytes: int = 1 << 20) -> str:
    """The data of the event in a line."""
    (item,) = NdjsonBody("a", FULL_ACCESS, max_event_bytes).items(line.encode() + b"\n")
    assert item is not None
    (event,) = sse.Decoder().feed(item[1] + b"\n")
    return event.data


NUMBERS = (
    "10.00",
    "-0",
    "-0.0",
    "0",
    "1e5",
    "1E+05",
    "1.50e-07",
    "1e999",
    "-1e-999",
    "123456789.123456789123",
    "0.1000000000000000055511151231257827",
    "12345678901234567890123",
    "9007199254740993",
    "9" * 5000,
    "0." + "1" * 5000,
)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:20])
def test_numbers_keep_their_digits(number: str) -> None:
    assert decoded(f'{{"data": {number}}}') == number
    assert decoded(f'{{"data":{number} , "event": "x"}}') == number
    assert (
        decoded(f'{{"n": 7, "data": [ {number} , {{"a" : {number}}} ]\t}}') == f'[{number},{{"a":{number}}}]'
    )


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ('{ "b" : 1.0 , "a" : 2 , "b" : 3.00 }', '{"b":1.0,"a":2,"b":3.00}'),  # order and doubles stay
        ('[ " a , b : c " , "x  y" ]', '[" a , b : c ","x  y"]'),
        ('[ "\\" \\\\" , "\\\\" , 1.0 ]', '["\\" \\\\","\\\\",1.0]'),
        ('[ "\\u00e4" , "\\u0041\\/" , "\\ud83c\\udf88" , "\\n" ]', '["ä","A/","🎈","\\n"]'),
        ('{"\\u00e4" : "\\u0022"}', '{"ä":"\\""}'),
        ("[\t]", "[]"),
        ("{ }", "{}"),
        (" null ", "null"),
        (" true", "true"),
        ("[true , false , null]", "[true,false,null]"),
        ("[ [ ] , { } ]", "[[],{}]"),
    ],
)
def test_only_white_space_between_tokens_goes(value: str, data: str) -> None:
    assert decoded(f'{{"data": {value}}}') == data


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ('{"data": 1, "data": 2.0}', "2.0"),
        ('{"data": 1.0, "data": "text"}', "text"),
        ('{"data": "text", "data": 1.0}', "1.0"),
        ('{"d\\u0061ta": 1.0}', "1.0"),
        ('{"data ": 1, "data": 2.0, "Data": 3}', "2.0"),
        ('{"more": {"data": 1}, "data": 2.0, "less": [{"data": 3}]}', "2.0"),
        ('{ "more" : "data" , "data" : [ 1.0 ] }', "[1.0]"),
        ('{"data": "10.00"}', "10.00"),
        ('{"data": "\\u0031.0 "}', "1.0 "),
    ],
)
def test_the_last_data_counts(line: str, data: str) -> None:
    assert decoded(line) == data


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
WHITE_SPACE = st.sampled_from(["", " ", "\t", "\r", "  ", " \t\r "])


@given(
    JSON_VALUES,
    st.dictionaries(st.text(), JSON_VALUES),
    WHITE_SPACE,
    WHITE_SPACE,
    st.booleans(),
    st.booleans(),
)
def test_any_value_is_as_json_writes_it_compactly(
    value: object,
    others: dict[str, object],
    before_colon: str,
    behind: str,
    ensure_ascii: bool,
    comes_first: bool,
) -> None:
    for name in ("event", "topic", "data"):
        others.pop(name, None)
    members = {"data": value, **others} if comes_first else {**others, "data": value}
    separators = (f"{behind},{behind}", f"{before_colon}:{behind}")
    line = json.dumps(members, ensure_ascii=ensure_ascii, separators=separators)
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    expected = value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else compact
    assert decoded(behind + line + before_colon) == expected


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "Application/JSONL; charset=utf-8",
    ],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("target", ["/topics/news", "/topics"])
async def test_all_names_of_the_type_and_a_leading_bom(
    server: Server, content_type: str, bom: bytes, target: str
) -> None:
    body = bom + b'{"data": 10.00, "topic": "news"}\n{"data": "\xef\xbb\xbf", "topic": "news"}'
    answer = await server.request("POST", target, body, content_type=content_type)
    assert (answer.status, answer.json()["published"]) == (200, 2)
    assert await kept(server) == [(None, "10.00"), (None, "\ufeff")]


async def test_a_bom_alone_is_an_empty_body(server: Server) -> None:
    assert (await lines(server, b"\xef\xbb\xbf")).json()["published"] == 0
    assert (await lines(server, b"\xef\xbb\xbf\r\n\n")).json()["published"] == 0
    body = await StreamedBody.open(server, "/topics/news", content_type=NDJSON)
    for byte in b'\xef\xbb\xbf{"data": 1}\n':
        await body.send(bytes([byte]))
    assert (await body.end()).json()["published"] == 1


async def test_a_bom_is_passed_over_only_at_the_start(server: Server) -> None:
    answer = await lines(server, b'{"data": 1}\n\xef\xbb\xbf{"data": 2}\n')
    assert (answer.status, answer.json()["line"]) == (400, 2)


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


@pytest.mark.parametrize("is_repeated", [False, True])
def test_the_members_of_a_line_are_bounded(is_repeated: bool) -> None:
    """26,000 members before a number took 35 ms. The broker reads three, and passes over some others."""
    others = [b'"a":0' if is_repeated else b'"%d":0' % number for number in range(MAX_MEMBERS)]
    (item,) = items(b"{%b}" % b",".join([*others[1:], b'"data":7']))
    assert item is not None
    assert item[1] == b"data: 7\n"
    with pytest.raises(InvalidBody, match="members"):
        items(b"{%b}" % b",".join([*others, b'"data":7']))


def test_spaces_between_tokens_do_not_count() -> None:
    spaced = b"[" + b", ".join(b"1" for _ in range(MOST // 2 - 1)) + b"]"
    (item,) = items(b'{"data":' + spaced + b" " * 4 * MOST + b"}")
    assert item is not None
    assert item[1] == b"data: " + spaced.replace(b" ", b"") + b"\n"


@pytest.mark.parametrize(
    "second",
    [
        b'{"data": 2}\n',
        b' {"data": "b", "event": "e"} \r\n',
        b"\n",
        b'{"data"',
        b'{"data": 1}\n{"data": 2}\n',
    ],
)
def test_a_piece_that_is_one_line_is_read_as_in_a_larger_one(second: bytes) -> None:
    pieces = [b'{"data": 1}\n', second, b'{"data": 3}\n']
    if second == b'{"data"':
        pieces[2] = b": 3}\n"
    cut, whole = (NdjsonBody("a", FULL_ACCESS, MOST) for _ in "ab")
    found: list[Item | None] = []
    for piece in pieces:
        plain = cut.plain_events(piece)
        found += cut.items(piece) if plain is None else [(plain[0], lines) for lines in plain[1]]
    assert found == list(whole.items(b"".join(pieces)))
    assert cut.location() == whole.location()


def test_a_bad_line_in_a_piece_of_its_own_is_counted() -> None:
    body = NdjsonBody("a", FULL_ACCESS, MOST)
    assert len(list(body.items(b'{"data": 1}\n'))) == 1
    assert body.plain_events(b'{"data": 2}\n') is not None
    with pytest.raises(InvalidBody):
        body.plain_events(b"nonsense\n")
    assert body.location() == {"line": 3}
