"""A piped event stream is read as the standard says (WHATWG HTML §9.2.6), cut anywhere."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, InvalidBody, InvalidParameter, TooLarge
from broker.sse import Decoder
from broker.stores.base import Item
from broker.web.end_mark import EndMark
from broker.web.event_stream_body import LINES_PER_TURN, STEP_BYTES, EventStreamBody

READ = {
    b"data: a\n\n": [("a", None)],
    b"data:a\r\rdata:b\r\n\r\ndata: c\n\n": [("a", None), ("b", None), ("c", None)],
    b"\xef\xbb\xbfdata: a\n\n": [("a", None)],
    b"event: token\nid: 7\nretry: 5\ndata: x\ndata: y\n\n": [("x\ny", "token")],
    b": hello\n\ndata: a\n\n:\n\n": [("a", None)],
    b"data\n\n": [("", None)],
    b"data:\n\n": [("", None)],
    b"data:  two blanks\n\n": [(" two blanks", None)],
    b"event: only\n\ndata: a\n\n": [("a", None)],
    b"foo: bar\ndata: a\n\n": [("a", None)],
    b"data: [DONE]\n\n": [("[DONE]", None)],
    b'event: ping\ndata: {"type": "ping"}\n\n': [('{"type": "ping"}', "ping")],
    "data: Grüße 🎈\u2028\u0085\n\n".encode(): [("Grüße 🎈\u2028\u0085", None)],
    b"data: a\n\n: trailing comment": [("a", None)],
    b"": [],
    b"\n\n\n": [],
}


def read(
    pieces: Iterable[bytes], max_event_bytes: int = 1000, mark: EndMark | None = None
) -> list[tuple[str, str | None]]:
    """Data and type of what a body brings that comes in these pieces."""
    piped = EventStreamBody("a", max_event_bytes, mark)
    items: list[Item | None] = []
    for piece in pieces:
        plain = piped.plain_events(piece)
        items += piped.items(piece) if plain is None else [(plain[0], lines) for lines in plain[1]]
    items += list(piped.end())
    decoder = Decoder()
    found = []
    for item in items:
        if item is not None:
            topic, lines = item
            assert topic == "a"
            (event,) = decoder.feed(lines + b"\n")
            found.append((event.data, event.type))
    return found


@pytest.mark.parametrize("body", READ, ids=repr)
def test_the_standards_line_ends_and_fields(body: bytes) -> None:
    assert read([body]) == READ[body]
    assert read(bytes([byte]) for byte in body) == READ[body], "one byte at a time"


def test_pieces_of_one_event_each_are_read_as_one_stream() -> None:
    assert read([b"data: a\n\n", b"event: token\ndata: b\n\n"]) == [("a", None), ("b", "token")]
    assert read([b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n"]) == [("a", None)], "a BOM within a stream"
    assert read([b"event: x\n", b"data: a\n\n", b"data: b\n", b"data: c\n\n"]) == [("a", "x"), ("b\nc", None)]
    assert read([b"data: a\r", b"\n\r", b"data: b\n\n"]) == [("a", None), ("b", None)]
    assert read([b"data: a", b"data: b\n\n"]) == [("adata: b", None)]


def test_pieces_of_several_events_are_read_as_one_stream() -> None:
    first, some = b"data: a\n\n", [f"data: {number}\n\n".encode() for number in range(40)]
    for size in (2, 32, 33, 40):
        assert read([first, b"".join(some[:size])]) == read([first, *some[:size]])
    assert read([first + b"event: x\ndata: b\n\n" + first]) == [("a", None), ("b", "x"), ("a", None)]
    for more in (
        b"data: b\n\n\ndata: c\n\n",
        b"data: b\ndata: c\n\n",
        b"\n\ndata: b\n\n",
        b"data: b\n\ndata: c\n",
        b"id: 1\n\n",
    ):
        body = first + more + b"\n"
        assert read([first + more, b"\n"]) == read(bytes([byte]) for byte in body), more


def test_events_before_a_bad_one_in_the_same_piece_are_read() -> None:
    for bad in (b"event: broker.end\ndata: b\n\n", b"data: \xff\n\n"):
        body = EventStreamBody("a", 1000)
        assert body.plain_events(b"data: a\n\n" + bad) is None
        items = body.items(b"data: a\n\n" + bad)
        assert next(items) == ("a", b"data: a\n")
        with pytest.raises(BrokerError):
            next(items)


@given(st.sampled_from(list(READ)), st.sampled_from(list(READ)), st.lists(st.integers(0, 200)))
def test_cut_anywhere(one: bytes, other: bytes, cuts: list[int]) -> None:
    body = (one if one.endswith((b"\n", b"\r")) else b"") + other.removeprefix(b"\xef\xbb\xbf")
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    assert read(body[a:b] for a, b in itertools.pairwise(places)) == read([body])


@pytest.mark.parametrize(
    "body", [b"data: a", b"data: a\n", b"event: x\n", b"da", b"data: a\r\n", b"data: a\n\ndata: b\n"]
)
def test_an_end_within_an_event_is_an_error(body: bytes) -> None:
    piped = EventStreamBody("a", 1000)
    list(piped.items(body))
    with pytest.raises(InvalidBody):
        list(piped.end())


BAD: dict[bytes, type[BrokerError]] = {
    b"data: \xff\n\n": InvalidBody,
    b"event: \xc3\ndata: a\n\n": InvalidBody,
    b"event: broker.end\ndata: a\n\n": InvalidParameter,
    b"event: " + b"x" * 101 + b"\ndata: a\n\n": InvalidParameter,
    b"data: " + b"x" * 1001 + b"\n\n": TooLarge,
    b"data: " + b"x" * 20_000: TooLarge,
    b": " + b"x" * 20_000: TooLarge,
    b"data: x\n" * 3000: TooLarge,
}


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:30]))
def test_a_bad_event_is_an_error_after_those_before_it(body: bytes) -> None:
    piped = EventStreamBody("a", 1000)
    found: list[object] = []
    with pytest.raises(BAD[body]):
        found.extend(piped.items(b"data: before\n\n" + body))
    assert [item for item in found if item is not None] == [("a", b"data: before\n")]


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:30]))
def test_a_bad_event_in_a_piece_of_its_own(body: bytes) -> None:
    with pytest.raises(BAD[body]):
        read([b"data: before\n\n", body])


def test_a_comment_may_be_invalid_utf8() -> None:
    assert read([b": \xff\ndata: a\n\n"]) == [("a", None)]


@pytest.mark.parametrize("piece", [b":\n", b"a:\n", b"id\r", b"data\n\n", b"data: a\r\n\r\n"])
def test_i9_many_short_lines_let_other_tasks_run(piece: bytes) -> None:
    items = list(EventStreamBody("a", 100_000).items(piece * 10_000))
    lines = len(re.findall(rb"[\r\n]", piece)) * 10_000
    most = LINES_PER_TURN + STEP_BYTES  # a step is decoded whole
    assert items.count(None) >= lines // most
    turns = "".join("." if item is None else "e" for item in items).split(".")
    assert max(map(len, turns)) <= most


def test_i9_events_come_before_the_rest_is_decoded() -> None:
    body = EventStreamBody("a", 1000)
    items = body.items(b"data\n\n" * 1000 + b"data: unfinished")
    assert next(items) == ("a", b"data: \n")
    assert body.held_bytes < len(b"data: unfinished")
    assert sum(item is not None for item in items) == 999
    assert body.held_bytes == len(b"data: unfinished")


def test_long_lines_cause_no_pause() -> None:
    assert None not in list(EventStreamBody("a", 1000).items(b"data: %b\n\n" % (b"x" * 200) * 80))


NO_STREAMS = (
    b"<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>\n",
    b'{"error": {"message": "no such model"}}',
    b'{"error": "x"}\n',
    b": a comment\n\nnot a stream\n\n",
    b"\xef\xbb\xbfHTTP/1.1 500\r\n\r\n",
    b"foo: bar\n\n",
    b"\n\n  \n",
    b"DATA: x\n\n",
    b"dat",
)


@pytest.mark.parametrize("body", NO_STREAMS, ids=repr)
@pytest.mark.parametrize("mark", [None, EndMark("[DONE]", "done")])
def test_no_event_stream_at_all(body: bytes, mark: EndMark | None) -> None:
    for pieces in ([body], [bytes([byte]) for byte in body]):
        with pytest.raises(InvalidBody, match="an event stream"):
            read(pieces, mark=mark)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\xef\xbb\xbf",
        b":",
        b": only\n: comments\n\n",
        b"id: 1\n\nfoo\n\n",
        b"retry\nfoo\n\n",
        b"event\nfoo\n\n",
        b"retry: x\nfoo\n\n",
        b"id: \0\nfoo\n\n",
    ],
    ids=repr,
)
def test_a_stream_without_events_is_one(body: bytes) -> None:
    assert read([body]) == []
    assert read(bytes([byte]) for byte in body) == []


DONE = EndMark("[DONE]", None)
STOP = EndMark(None, "message_stop")
EITHER = EndMark("[DONE]", "message_stop")


@pytest.mark.parametrize(
    ("tail", "mark", "found"),
    [
        (b"data: [DONE]\n", DONE, ("[DONE]", None)),
        (b"data: [DONE]\r", DONE, ("[DONE]", None)),
        (b"data: [DONE]\r\n", DONE, ("[DONE]", None)),
        (b"data: [DONE]", DONE, ("[DONE]", None)),
        (b"data:[DONE]\nid: 5\n", DONE, ("[DONE]", None)),
        (b"event: x\ndata: [DONE]\n", DONE, ("[DONE]", "x")),
        (b"data: [DONE]\n", EITHER, ("[DONE]", None)),
        (b"event: message_stop\ndata: {}\n", STOP, ("{}", "message_stop")),
        (b"event: message_stop\ndata: {}\n", EITHER, ("{}", "message_stop")),
        (b"data\n", EndMark("", None), ("", None)),
        (b"data: a\ndata: b\n", EndMark("a\nb", None), ("a\nb", None)),
    ],
    ids=repr,
)
def test_a_mark_in_an_unfinished_last_block_counts(
    tail: bytes, mark: EndMark, found: tuple[str, str | None]
) -> None:
    for body in (tail, b"data: 1\n\n" + tail):
        for pieces in ([body], [bytes([byte]) for byte in body]):
            assert read(pieces, mark=mark)[-1] == found
    with pytest.raises(InvalidBody, match="within an event"):
        read([tail])


@pytest.mark.parametrize(
    ("tail", "mark"),
    [
        (b"data: [DONE\n", DONE),
        (b"data: [DONE] \n", DONE),
        (b"data: [DONE]\ndata:\n", DONE),
        (b"event: message_stop\n", STOP),  # without data it isn't an event
        (b'event: message_stop\ndata: {"type": "mess', STOP),  # cut within its data
        (b"event: message_sto\ndata: {}\n", STOP),
        (b"data: message_stop\n", STOP),
        (b"event: [DONE]\ndata: x\n", DONE),
        (b"data: [DONE]\n\ndata: x\n", DONE),
    ],
    ids=repr,
)
def test_anything_else_in_an_unfinished_last_block_is_a_cut(tail: bytes, mark: EndMark) -> None:
    with pytest.raises(InvalidBody, match="within an event"):
        read([tail], mark=mark)
