"""`tracestate` (W3C Trace Context §3.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import TraceState

from broker.traces import MAX_STATE_CHARS, parse_traceparent, parse_tracestate

LONG = "long=" + 200 * "x"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", ""),
        ("rojo=00f067aa0ba902b7", "rojo=00f067aa0ba902b7"),
        ("a=1 , \tb@c=2,,  ", "a=1,b@c=2"),
        ("a=1,a=2", ""),
        ("a=1,B=2", ""),
        ("a", ""),
        ("a=", ""),
        ("a=1\x7f", ""),
        ("1a=x", ""),
        (f"{256 * 'a'}=x", f"{256 * 'a'}=x"),
        (f"{257 * 'a'}=x", ""),
        (f"4@{14 * 'b'}=x", f"4@{14 * 'b'}=x"),
        (f"4@{15 * 'b'}=x", ""),
        (f"{241 * '4'}@b=x", f"{241 * '4'}@b=x"),
        (f"{242 * '4'}@b=x", ""),
        ("a@4=x", ""),
        ("a@b@c=x", ""),
        ("a@=x", ""),
        ("@b=x", ""),
        ("a=ü", ""),
        ("a=1\nb=2", ""),
        (",".join(f"k{number}=v" for number in range(32)), ",".join(f"k{number}=v" for number in range(32))),
        (",".join(f"k{number}=v" for number in range(33)), ""),
        (f"{LONG},a=1,b={120 * 'y'}", f"{LONG},a=1,b={120 * 'y'}"),
    ],
)
def test_members(text: str, state: str) -> None:
    assert parse_tracestate(text) == state


def test_of_a_long_one_long_members_go_first() -> None:
    others = [f"k{number}={100 * 'v'}" for number in range(4)]
    assert parse_tracestate(",".join([LONG, *others])) == ",".join(others)
    assert parse_tracestate(",".join([*others, f"{LONG}x", "a=1"])) == ",".join([*others, "a=1"])


def test_then_those_at_the_end() -> None:
    members = [f"k{number}={100 * 'v'}" for number in range(8)]
    assert parse_tracestate(",".join(members)) == ",".join(members[:4])


@given(st.text(alphabet='ab=@, \t-"\\\x00\r\n', max_size=2000) | st.text(max_size=600))
def test_what_is_left_is_bounded_and_stays_on_its_line(text: str) -> None:
    state = parse_tracestate(text)
    assert len(state) <= MAX_STATE_CHARS
    assert state.isascii()
    assert state.isprintable()
    assert parse_tracestate(state) == state


@given(
    st.lists(st.from_regex(r"[a-z4*@/_-]{0,20}=[ -~]{0,8}", fullmatch=True), max_size=3).map(",".join)
    | st.text(alphabet="a4@=, \t-*", max_size=40)
)
def test_opentelemetry_accepts_the_same(text: str) -> None:
    state = parse_tracestate(text)
    assert TraceState.from_header([text]).to_header() == state


def test_it_belongs_to_a_traceparent() -> None:
    text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context = parse_traceparent(text, "a=1")
    assert context is not None
    assert (context.state, context.unsampled().state) == ("a=1", "a=1")
    assert str(context.unsampled()) == text[:-1] + "0"
    assert parse_traceparent("malformed", "a=1") is None
