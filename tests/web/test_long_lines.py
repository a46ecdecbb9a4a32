"""Long lines of JSON: parsed as short ones are, but in steps that leave time for others."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.grants import FULL_ACCESS
from broker.errors import BrokerError
from broker.stores.base import Item
from broker.web.front.connection import SLICE_BYTES
from broker.web.long_lines import STEP_CHARS
from broker.web.ndjson import LONG_LINE_BYTES, STEP_BYTES, NdjsonBody

MAX_EVENT_BYTES = 262_144
Outcome = Item | tuple[type[BrokerError], str]


def outcome(parse: Callable[[], Item]) -> Outcome:
    try:
        return parse()
    except BrokerError as error:
        return type(error), error.detail


def in_one_step(line: bytes) -> Outcome:
    return outcome(lambda: NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES)._item(line))


def in_steps(line: bytes) -> Outcome:
    def drained() -> Item:
        steps = NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES)._long_item(line)
        while True:
            try:
                next(steps)
            except StopIteration as returned:
                item = returned.value
                assert isinstance(item, tuple)
                return item

    return outcome(drained)


TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
LINE = st.fixed_dictionaries(
    {"data": VALUE}, optional={"event": st.none() | st.just("t") | VALUE, "topic": VALUE, "x": VALUE}
)


@given(
    LINE,
    st.booleans(),
    st.sampled_from([None, 1]),
    st.integers(0, 10_000),
    st.sampled_from(["", "[", "}", '"', ",", ":", "\\", "1", "\n", " ", "\x01", "\\ud83d"]),
)
def test_a_line_means_the_same_either_way(
    value: dict[str, object], escapes: bool, indent: int | None, place: int, added: str
) -> None:
    text = json.dumps(value, ensure_ascii=escapes, indent=indent)
    place %= len(text) + 1
    for each in (text, text[:place] + added + text[place:], text[:place]):
        line = each.encode("utf-8", "surrogatepass").strip()
        if line:
            found, expected = in_steps(line), in_one_step(line)
            if isinstance(expected[0], str):
                assert found == expected, line
            else:
                assert found[0] is expected[0], line  # if there are two faults, either may be named


@pytest.mark.parametrize(
    "text",
    [
        '{"data": 1} 2', "[1]", '"x"', "1", "{", "{}", "{]", '{"data"}', '{"data":}', '{"data":1,}', '{,}', '{"data":1 "x":2}',
        '{"data":NaN}', '{"data":[1,]}', '{"data":[,1]}', '{"data":[1 2]}', '{"data":{"a":1,}}', '{"data":{1:2}}', '{"data":01}',
        '{"data":1.}', '{"data":-}', '{"data":[-Infinity]}', '{"data":1e}', '{"data":1E+2}', '{"data":"\\x"}', '{"data":"\\u12"}',
        '{"data":tru}', '{"data":1,"data":[2]}', '{"data":[2],"data":"x"}', '{"da\\u0074a": [1]}', '{"data":"x","event":null}',
        '{"data":"x","event":false}', '{"data":"x","event":[1]}', '{"data":"x","event":[1],"event":"t"}', '{"event":"t"}', "{'data':1}",
        '{"data":[[[]],{},[{}]]}', '{"data":null}', '{"data":"\\ud83d\\ude00"}', '{"data":"\\ud83d"}', '{"data":["\\ud83d"]}',
    ],
)  # fmt: skip
def test_a_line_is_refused_for_the_same_reason(text: str) -> None:
    assert in_steps(text.encode()) == in_one_step(text.encode())


@pytest.mark.parametrize("shift", range(-14, 14))
def test_escapes_may_lie_anywhere_between_two_steps(shift: int) -> None:
    for escape in ("\\ud83d\\ude00", "\\n", "\\u00e9", "\\\\", "\\ud83d\\ud83d\\ude00"):
        line = f'{{"data": "{"x" * (STEP_CHARS + shift)}{escape * 2000}"}}'.encode()
        assert in_steps(line) == in_one_step(line)
        line = f'{{"data": ["{"x" * (STEP_CHARS + shift)}{escape * 2000}"]}}'.encode()
        assert in_steps(line) == in_one_step(line)


def rest_of(count: int) -> str:
    return "".join(random.Random(1).choice("0123456789") for _ in range(count))


LONG = {
    "escapes": '{"data": "' + "\\u0061" * MAX_EVENT_BYTES + '"}',
    "an escaped string in a list": '{"data": ["' + "\\u0061" * (MAX_EVENT_BYTES - 4) + '"]}',
    "an escaped name": '{"' + "\\u0061" * MAX_EVENT_BYTES + '": 1, "data": 2}',
    "brackets": '{"data": [' + ",".join(["[" * 100 + "]" * 100] * 1300) + "]}",
    "objects": '{"data": [' + ",".join(['{"":0}'] * 37_000) + "]}",
    "strings": '{"data": [' + ",".join(['"\\n"'] * 52_000) + "]}",
    "numbers": '{"data": [' + ",".join(["1"] * 131_000) + "]}",
    "a number": '{"data": ' + rest_of(MAX_EVENT_BYTES - 1) + "}",
    "white space": '{"data": [' + " 1 ," * 131_000 + "1]}",
    "another member": '{"x": [' + ",".join(["{}"] * 80_000) + '], "data": {}}',
}


@pytest.mark.parametrize("name", LONG)
def test_i9_a_long_line_is_parsed_in_many_steps(name: str) -> None:
    """Others waited 30 ms and more for one. How long each step takes is measured by no test, but how many there are."""
    line = LONG[name].encode()
    assert len(line) > LONG_LINE_BYTES
    body = NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES)
    items = list(body.items(line + b"\n"))
    assert items[-1] == in_one_step(line)
    if name != "a number":
        assert len(items) > 16


@pytest.mark.parametrize("value", ["10", '{"":0}'])
def test_i4_a_long_line_takes_little_more_than_its_size_between_its_steps(value: str) -> None:
    """Each token was an object: 262 KB took 6 MB, of each body that was being parsed."""
    line = f'{{"data": [{",".join([value] * (260_000 // (len(value) + 1)))}]}}\n'.encode()
    steps = NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES).items(line)
    tracemalloc.start()
    try:
        most = max(tracemalloc.get_traced_memory()[0] for item in steps if item is None)
    finally:
        tracemalloc.stop()
    assert most < 4 * len(line)


def test_i9_many_lines_that_are_not_long_leave_time_for_others() -> None:
    """Those of one read were parsed in one step: 60 lines of 16 KB took 85 ms."""
    line = b'{"data": [' + b",".join([b"[" * 100 + b"]" * 100] * 78) + b"]}"
    assert len(line) < LONG_LINE_BYTES
    items = list(NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES).items((line + b"\n") * 10))
    assert len([item for item in items if item is not None]) == 10
    step = 0
    for item in items:
        step = 0 if item is None else step + len(line)
        assert step <= STEP_BYTES


def test_a_piece_of_short_lines_is_parsed_without_a_pause() -> None:
    """Each pause takes a turn of the loop: a batch of events took several times as long."""
    body = NdjsonBody("a", FULL_ACCESS, MAX_EVENT_BYTES)
    data = b'{"data": "%b"}\n' % (b"x" * 2000) * 60
    for start in range(0, len(data), SLICE_BYTES):
        assert None not in list(body.items(data[start : start + SLICE_BYTES]))


def test_a_long_line_may_not_be_nested_too_deeply() -> None:
    line = b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert in_steps(line) == in_one_step(line)
    line = b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert in_steps(line) == in_one_step(line)
    assert isinstance(in_steps(line)[0], str)
