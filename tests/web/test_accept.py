"""The representation of a topic by `Accept`."""

from __future__ import annotations

import pytest

from broker.web.accept import representation
from tests.support.local_broker import Server
from tests.support.work import bytecodes


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/event-stream", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("", "text/event-stream"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("application/json", "application/json; charset=utf-8"),
        ("application/json, text/plain, */*", "application/json; charset=utf-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ("text/html;q=0.5, */*", "text/event-stream"),
    ],
)
async def test_representation_by_accept(server: Server, accept: str, content_type: str) -> None:
    stream = await server.subscribe("/topics/news", accept=accept)
    assert stream.headers["content-type"] == content_type
    assert stream.headers["vary"] == "Accept"
    if content_type != "text/event-stream":
        assert stream.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("piece", ["a,", "a;", "a;q=1,", ",", ";", "q=;", "text/html;q=0.1,"])
def test_the_work_for_a_long_header_is_bounded(piece: str) -> None:
    """8 KB of media ranges took 6 ms."""
    short, long = piece * (500 // len(piece)), piece * (16_000 // len(piece))
    most = bytecodes(lambda: representation(f"work/{piece},{short}"))
    assert bytecodes(lambda: representation(long)) < 2 * most + 5000


@pytest.mark.parametrize("first", ["text/event-stream", "TEXT/Event-Stream; q=0.3"])
def test_what_a_long_header_names_first_counts(first: str) -> None:
    assert representation(f"text/html, {first}{', x/y' * 4000}") is representation(first)
