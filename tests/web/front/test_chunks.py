"""Chunks that are taken without parsing: a body is the same as if llhttp had parsed it, wherever its bytes are split."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.web.front.chunks import MAX_CHUNKS, Chunks
from broker.web.front.known_heads import KnownHeads
from tests.support.http import request
from tests.web.front.test_known_heads import FIRST, fed

HEAD = request("POST", "/topics/a", "Transfer-Encoding: chunked")
PIECES = [
    b"5\r\nevent\r\n",
    b"000005\r\nevent\r\n",
    b"A\r\n0123456789\r\n",
    b"a\r\n0123456789\r\n",
    b"4\r\nab\r\n\r\n",
    b"7\r\n2\r\nab\r\n\r\n",
    b"1\r\nx\r\n1\r\ny\r\n",
    b"4\r\nab\r\n\r\n000003\r\n\r\nx\r\n1\r\nz\r\n",
    b"1\r\nx\r\n" * MAX_CHUNKS,
    b"1\r\nx\r\n" * (MAX_CHUNKS + 1),
    b"1\r\nx\r\n1\r\ny",
    b"1\r\nx\r\n2\r\ny\r\n",
    b"1\r\nx\r\n0\r\n\r\n",
    b"1\r\nx\r\n0\r\n\r\n1\r\ny\r\n",
    b"1\r\nx\r\n1;a\r\ny\r\n",
    b"1\r\nx\r\n1\ny\r\n",
    b"1\r\nx\ry1\r\ny\r\n",
    b"1\r\nx1\r\ny\r\n",
    b"5;a=b\r\nevent\r\n",
    b"0000000005\r\nevent\r\n",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    FIRST,
    HEAD,
    request("POST", "/topics/a", body=b"5\r\nevent\r\n"),
    request("POST", "/topics/a", "Transfer-Encoding: chunked", "Connection: Upgrade", "Upgrade: h2c"),
    b"5\r\nevent",
    b"\r\n",
    b"\n",
    b"5",
    b" 5\r\nevent\r\n",
    b"+5\r\nevent\r\n",
    b"5 \r\nevent\r\n",
    b"0x5\r\nevent\r\n",
    b"1_0\r\n0123456789abcdef\r\n",
    b"5\nevent\r\n",
    b"5\r\nevent\n\n",
    b"5\r\nevents\r\n",
    b"6\r\nevent\r\n",
    b"\r\nevent\r\n",
    b"g\r\n\r\n",
]
"""The first of them are valid behind a head, or behind the end of a body."""


def parsed(*pieces: bytes) -> Sequence[object]:
    """What llhttp alone makes of `pieces`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("broker.web.front.chunks._CHUNK", _NoChunk())
        return fed(KnownHeads(), *pieces)


class _NoChunk:
    """Takes no bytes for a chunk."""

    def fullmatch(self, _data: bytes) -> None:
        return None


@pytest.mark.uncompiled
@pytest.mark.parametrize("first", PIECES)
def test_two_pieces_of_a_body_are_as_if_parsed(first: bytes) -> None:
    for begun, second in itertools.product(((HEAD,), (HEAD, PIECES[0])), PIECES):
        pieces = *begun, first, second, PIECES[2]
        assert fed(KnownHeads(), *pieces) == parsed(*pieces), second


@pytest.mark.uncompiled
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8), st.data())
@settings(max_examples=300, deadline=None)
def test_bodies_are_as_if_parsed_wherever_they_are_split(chosen: list[bytes], data: st.DataObject) -> None:
    pieces = [HEAD]
    for piece in chosen:
        at = data.draw(st.integers(0, len(piece)))
        pieces += [piece[:at], piece[at:]] if at else [piece]
    whole = b"".join(pieces)
    first, second = sorted(data.draw(st.integers(0, len(whole))) for _ in range(2))
    for split in (pieces, [whole[:first], whole[first:second], whole[second:]]):
        given_pieces = [piece for piece in split if piece]
        assert fed(KnownHeads(), *given_pieces) == parsed(*given_pieces), given_pieces


@pytest.mark.uncompiled
def test_whole_chunks_do_not_reach_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[bytes] = []

    class Parser(httptools.HttpRequestParser):
        def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
            reached.append(bytes(data))
            super().feed_data(data)

    monkeypatch.setattr("broker.web.front.parser.httptools.HttpRequestParser", Parser)
    chunk, extended, last = PIECES[0], b"5;a=b\r\nevent\r\n", b"0\r\n\r\n"
    fed(KnownHeads(), HEAD, chunk, 2 * chunk, extended, chunk, chunk[:3], chunk[3:], chunk, last)
    assert reached == [FIRST, HEAD, extended, chunk[:3], chunk[3:], last]


def test_only_whole_chunks_are_taken() -> None:
    chunks = Chunks()
    assert chunks.whole(PIECES[0]) is None, "its head may not be complete"
    assert chunks.parsed(HEAD, 0)
    assert chunks.whole(PIECES[0]) == b"event"
    taken = [chunks.whole(piece) for piece in PIECES]
    assert [content for content in taken if content] == [
        b"event",
        b"event",
        b"0123456789",
        b"0123456789",
        b"ab\r\n",
        b"2\r\nab\r\n",
        b"xy",
        b"ab\r\n\r\nxz",
        b"x" * MAX_CHUNKS,
    ]
    chunks.is_between = False  # after the size of a chunk
    assert chunks.parsed(b"5\r\n", 0)
    assert chunks.whole(PIECES[0]) is None
