"""One table of (event, bytes) drives encoder and decoder; hypothesis cuts the bytes anywhere."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import sse
from broker.errors import TooLarge
from broker.events import Event, format_id
from tests.support.work import bytecodes

ID = (1763791200123 << 64) | 7
ID_TEXT = "1763791200123-7"

# data, type, what leaves, and data as it arrives
CASES = [
    ("hello", None, b"data: hello\nid: 1763791200123-7\n\n", "hello"),
    ("", None, b"data: \nid: 1763791200123-7\n\n", ""),
    ("hello", "greeting", b"event: greeting\ndata: hello\nid: 1763791200123-7\n\n", "hello"),
    (" lead", None, b"data:  lead\nid: 1763791200123-7\n\n", " lead"),
    ("a\nb", None, b"data: a\ndata: b\nid: 1763791200123-7\n\n", "a\nb"),
    ("a\r\nb", None, b"data: a\ndata: b\nid: 1763791200123-7\n\n", "a\nb"),
    ("a\rb", None, b"data: a\ndata: b\nid: 1763791200123-7\n\n", "a\nb"),
    ("a\n\rb", None, b"data: a\ndata: \ndata: b\nid: 1763791200123-7\n\n", "a\n\nb"),
    ("\n", None, b"data: \ndata: \nid: 1763791200123-7\n\n", "\n"),
    ("\r\r\n\n", None, b"data: \ndata: \ndata: \ndata: \nid: 1763791200123-7\n\n", "\n\n\n"),
    (
        "id: 5\n\ndata: x",
        None,
        b"data: id: 5\ndata: \ndata: data: x\nid: 1763791200123-7\n\n",
        "id: 5\n\ndata: x",
    ),
    (
        "a\u2028b\x85c\x0bd",
        None,
        "data: a\u2028b\x85c\x0bd\nid: 1763791200123-7\n\n".encode(),
        "a\u2028b\x85c\x0bd",
    ),
    ("nul \0 ok", None, b"data: nul \0 ok\nid: 1763791200123-7\n\n", "nul \0 ok"),
    ("ü€😀", "größe", "event: größe\ndata: ü€😀\nid: 1763791200123-7\n\n".encode(), "ü€😀"),
    ("\ufeffx", None, "data: \ufeffx\nid: 1763791200123-7\n\n".encode(), "\ufeffx"),
]


def decoded(data: bytes, cuts: Sequence[int] = ()) -> list[Event]:
    """The events that a new decoder returns for `data`, cut at `cuts`."""
    return decode(sse.Decoder(), data, cuts)


def decode(decoder: sse.Decoder, data: bytes, cuts: Sequence[int]) -> list[Event]:
    return [event for piece in pieces(data, cuts) for event in decoder.feed(piece)]


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        yield data[begin:end]


@pytest.mark.parametrize(("data", "event_type", "wire", "arrives"), CASES)
def test_encoder_and_decoder_follow_the_table(
    data: str, event_type: str | None, wire: bytes, arrives: str
) -> None:
    assert sse.frame(sse.lines(data.encode(), event_type), ID) == wire
    expected = Event(arrives, event_type, ID_TEXT)
    assert sse.split(wire) == expected
    for cut in range(len(wire) + 1):
        assert decoded(wire, [cut]) == [expected]
    assert decoded(wire, range(len(wire))) == [expected]


@pytest.mark.parametrize(("data", "event_type", "wire", "arrives"), CASES)
def test_all_line_ends_are_equal(data: str, event_type: str | None, wire: bytes, arrives: str) -> None:
    expected = Event(arrives, event_type, ID_TEXT)
    for end in (b"\r", b"\r\n"):
        other = b":\n".replace(b"\n", end) + wire.replace(b"\n", end) * 2
        for cut in range(len(other) + 1):
            assert decoded(other, [cut]) == [expected] * 2
        assert decoded(other, range(len(other))) == [expected] * 2


# bytes, then the decoded events, last id and retry
GRAMMAR = [
    (b"data: a\n\n", [Event("a")], "", None),
    (b"data:a\n\ndata:  b\n\n", [Event("a"), Event(" b")], "", None),
    (b"data\n\n", [Event("")], "", None),
    (b"data\ndata\n\n", [Event("\n")], "", None),
    (b"data:\n\n", [Event("")], "", None),
    (b"\n\n\n", [], "", None),
    (b"event: x\n\ndata: a\n\n", [Event("a")], "", None),
    (b"event: x\nevent: y\ndata: a\n\n", [Event("a", "y")], "", None),
    (b"event: x\nevent:\ndata: a\n\n", [Event("a")], "", None),
    (b"data: a\n\nevent: x\n", [Event("a")], "", None),
    (b"data: cut", [], "", None),
    (b"id: 1\ndata: cut\n", [], "", None),
    (b"id: 1\n\n", [], "1", None),
    (b"id: 1\n\ndata: a\n\n", [Event("a", id="1")], "1", None),
    (b"id: 1\ndata: a\n\ndata: b\n\n", [Event("a", id="1"), Event("b", id="1")], "1", None),
    (b"id: 1\n\nid\ndata: a\n\n", [Event("a")], "", None),
    (b"id: 1\n\nid:\ndata: a\n\n", [Event("a")], "", None),
    (b"id: 1\n\nid: 2\0\ndata: a\n\n", [Event("a", id="1")], "1", None),
    (b"id: 1\nid: \0\ndata: a\n\n", [Event("a", id="1")], "1", None),
    (b"retry: 3000\n", [], "", 3000),
    (b"retry: 3000\nretry: 10\n\n", [], "", 10),
    (b"retry: 0\n", [], "", 0),
    (b"retry: 007\n", [], "", 7),
    (b"retry: -1\nretry: 1.5\nretry: 1e3\nretry:\nretry\nretry: 1 \nretry:  1\n", [], "", None),
    ("retry: ٣\nretry: ²\n".encode(), [], "", None),
    (b"retry: 999999999\n", [], "", 999_999_999),
    (b"retry: 1000000000\n", [], "", None),
    (b": comment\n:\n::\ndata: a\n: within\ndata: b\n\n", [Event("a\nb")], "", None),
    (b"Data: no\ndata : no\n data: no\nfoo: no\nfoo\nDATA\ndata: a\n\n", [Event("a")], "", None),
    (b"\xef\xbb\xbfdata: a\n\n", [Event("a")], "", None),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: no\ndata: a\n\n", [Event("a")], "", None),
    (b"data: a\n\n\xef\xbb\xbfdata: no\n\n", [Event("a")], "", None),
    (b"\xef\xbb\xbf\n\xef\xbb\xbfdata: no\n\ndata: a\n\n", [Event("a")], "", None),
    (b"data: \xff\xe2\x82\n\n", [Event("��")], "", None),
    (b"data: \xed\xa0\x80\n\n", [Event("���")], "", None),
]


@pytest.mark.parametrize(("stream", "events", "last_id", "retry_ms"), GRAMMAR)
def test_decoder_follows_the_grammar_at_every_cut(
    stream: bytes, events: list[Event], last_id: str, retry_ms: int | None
) -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        data = stream.replace(b"\n", end)
        for cuts in [*([cut] for cut in range(len(data) + 1)), range(len(data))]:
            decoder = sse.Decoder()
            assert decode(decoder, data, cuts) == events
            assert (decoder.last_event_id, decoder.retry_ms) == (last_id, retry_ms)


def test_heartbeats_and_retry_are_not_events() -> None:
    decoder = sse.Decoder()
    assert decoder.feed(sse.retry(3127) + sse.HEARTBEAT * 3) == []
    assert (decoder.retry_ms, decoder.last_event_id) == (3127, "")
    assert decoder.feed(CASES[0][2] + sse.HEARTBEAT) == [Event("hello", id=ID_TEXT)]


def test_an_incomplete_event_does_not_move_the_cursor() -> None:
    decoder = sse.Decoder()
    decoder.feed(b"id: 1-0\ndata: a\n\n")
    decoder.feed(b"data: b\nid: 2-0\n")
    assert decoder.last_event_id == "1-0"
    assert decoder.feed(b"\n") == [Event("b", id="2-0")]
    assert decoder.last_event_id == "2-0"


def test_a_control_event_without_id_does_not_move_the_cursor() -> None:
    decoder = sse.Decoder()
    decoder.last_event_id = "5-0"
    (gap,) = decoder.feed(sse.control("broker.gap", {"topic": "a", "after": "5-0\n", "reason": "lost"}))
    assert (gap.type, gap.id, decoder.last_event_id) == ("broker.gap", "5-0", "5-0")
    assert json.loads(gap.data) == {"topic": "a", "after": "5-0\n", "reason": "lost"}
    (opening,) = decoder.feed(sse.control("broker.open", {"topics": ["a"]}, ID))
    assert (opening.id, decoder.last_event_id) == (ID_TEXT, ID_TEXT)


# Rules

texts = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\n :\0\ufeff")), max_size=30
)
types = st.none() | st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=10
)
ids = st.integers(0, (1 << 128) - 1)
cuts = st.lists(st.integers(0, 400), max_size=12)
noise = st.sampled_from([b"", b":\n", b": talk\r\n", b"unknown: 5\r", b"retry: 5\n", b"id: a\0b\n", b"x\n"])


@given(st.lists(st.tuples(texts, types, ids, noise), max_size=5), cuts, st.booleans())
def test_encoded_events_are_decoded_at_any_cuts(
    given_events: list[tuple[str, str | None, int, bytes]], cuts: list[int], bom: bool
) -> None:
    stream = b"\xef\xbb\xbf" if bom else b""
    expected = []
    for data, event_type, event_id, between in given_events:
        stream += between + sse.frame(sse.lines(data.encode(), event_type), event_id)
        expected.append(Event(re.sub("\r\n|\r", "\n", data), event_type, format_id(event_id)))
    assert decoded(stream, cuts) == expected


@given(st.lists(texts, max_size=4), types, ids)
def test_envelope_carries_the_same_event(parts: list[str], event_type: str | None, event_id: int) -> None:
    event_id %= 1 << 100  # a time in the range of datetime
    data = "\n".join(parts)
    plain = sse.frame(sse.lines(data.encode(), event_type), event_id)
    wrapped = sse.split(sse.envelope("a.b", plain, event_id))
    value = json.loads(wrapped.data)
    assert list(value) == ["topic", "id", "event", "time", "data"]
    arrived = sse.split(plain)
    assert (value["data"], value["event"], value["id"]) == (arrived.data, arrived.type, arrived.id)
    assert (wrapped.type, wrapped.id, value["topic"]) == (None, arrived.id, "a.b")
    assert "\n" not in wrapped.data


fields = st.sampled_from(
    [
        b"data",
        b"data:",
        b"data: x",
        b"id: 1",
        b"id",
        b"event: e",
        b"retry: 7",
        b":c",
        b"",
        b"",
        b"u: v",
        b"\xff",
        b"data:\0",
    ]
)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.lists(st.tuples(fields, ends), max_size=25), cuts)
def test_decoder_agrees_with_the_standard_at_any_cuts(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(line + end for line, end in lines)
    whole, cut = sse.Decoder(), sse.Decoder()
    assert decode(cut, stream, cuts) == whole.feed(stream) == by_the_standard(stream)
    assert (cut.last_event_id, cut.retry_ms) == (whole.last_event_id, whole.retry_ms)


@given(st.binary(max_size=200), cuts)
def test_decoder_takes_any_bytes(junk: bytes, cuts: list[int]) -> None:
    assert decoded(junk, cuts) == decoded(junk)


def by_the_standard(stream: bytes) -> list[Event]:
    """WHATWG HTML §9.2.6 step by step, over the whole stream."""
    text = re.sub("\r\n|\r", "\n", stream.decode("utf-8", "replace")).removeprefix("\ufeff")
    data = event_type = id_buffer = ""
    events = []
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                events.append(Event(data.removesuffix("\n"), event_type or None, id_buffer))
            data = event_type = ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            event_type = value
        elif name == "id" and "\0" not in value:
            id_buffer = value
    return events


# Size


@given(cuts)
def test_events_before_one_that_is_too_large_arrive_at_any_cuts(cuts: list[int]) -> None:
    stream = b"data: small\n\n" * 3 + b"data: " + b"x" * 50 + b"\n\ndata: never\n\n"
    decoder = sse.Decoder(max_event_bytes=40)
    assert until_too_large(decoder, [*pieces(stream, cuts), b""]) == [Event("small")] * 3
    with pytest.raises(TooLarge):
        decoder.feed(b"data: x\n\n")


def until_too_large(decoder: sse.Decoder, data: Iterable[bytes]) -> list[Event]:
    """The events before `TooLarge`, which must be raised."""
    events: list[Event] = []
    try:
        for piece in data:
            events += decoder.feed(piece)
    except TooLarge:
        return events
    raise AssertionError(f"taken: {events}")


@given(cuts)
def test_the_size_limit_is_per_event(cuts: list[int]) -> None:
    stream = b"event: e\ndata: 12345678\ndata: 12345678\n\n" * 10
    assert len(decode(sse.Decoder(max_event_bytes=36), stream, cuts)) == 10
    with pytest.raises(TooLarge):
        decode(sse.Decoder(max_event_bytes=35), stream, cuts)


@pytest.mark.parametrize(
    "endless", [b"data: x\n", b"x", b":", b"event: " + b"x" * 20 + b"\n", b"unknown\n"], ids=repr
)
def test_an_endless_line_or_event_is_too_large(endless: bytes) -> None:
    assert until_too_large(sse.Decoder(max_event_bytes=1000), itertools.repeat(endless, 10_000)) == []


def test_i4_an_event_of_many_short_lines_takes_no_more_than_its_bytes() -> None:
    """20 bodies of `data:€` lines held 398 MB: each line was a string of its own."""
    lines = "data:€\n".encode() * 20_000
    decoder = sse.Decoder()
    tracemalloc.start()
    try:
        for start in range(0, len(lines), 4096):
            decoder.feed(lines[start : start + 4096])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * len(lines)
    assert decoder.held_bytes == len(lines) - 20_000, "all but the line ends"


@given(cuts)
def test_any_number_of_short_comments_is_allowed(cuts: list[int]) -> None:
    assert decode(sse.Decoder(max_event_bytes=10), b": 3456789\n" * 40, cuts) == []


def test_i9_a_blank_line_of_many_costs_next_to_nothing() -> None:
    """A body of nothing else took 130 ns a byte, while all other clients waited."""
    decoder = sse.Decoder()
    work = bytecodes(lambda: decoder.feed(b"\n" * 10_000))
    assert work < 10_000 * 30
    assert [event.data for event in decoder.feed(b"data: x\n\n\n\ndata: y\n\n")] == ["x", "y"]


def test_the_work_for_an_envelope_does_not_grow_with_its_lines() -> None:
    """262,144 newlines took 206 ms, while all other clients waited."""
    few, many = (sse.frame(sse.lines(b"\n" * count), 7) for count in (10, 262_144))
    bound = bytecodes(lambda: sse.envelope("a", few, 7))
    assert bytecodes(lambda: sse.envelope("a", many, 7)) <= bound


@given(st.text(), st.none() | st.just("kind"), st.sampled_from(["", 'a=1,b="2\\"']))
def test_a_traced_event_is_the_same_event(data: str, event_type: str | None, state: str) -> None:
    """In the plain form its trace is a comment; in the envelope a member."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    plain = sse.lines(data.encode("utf-8", "replace"), event_type)
    made = sse.frame(sse.traced(plain, trace, state), 7 << 64 | 1)
    untraced = sse.frame(plain, 7 << 64 | 1)
    assert (sse.trace_of(made), sse.trace_of(untraced)) == (trace, None)
    assert sse.split(made) == sse.split(untraced)
    assert sse.Decoder().feed(made) == sse.Decoder().feed(untraced)
    value = json.loads(sse.envelope_value(sse.envelope("a", made, 7 << 64 | 1)))
    assert value.pop("traceparent") == trace
    assert value.pop("tracestate", "") == state
    assert value == json.loads(sse.envelope_value(sse.envelope("a", untraced, 7 << 64 | 1)))
