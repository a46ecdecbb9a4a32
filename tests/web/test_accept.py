"""The representation of a topic by `Accept`."""

from __future__ import annotations

import pytest

from tests.support.local_broker import Server


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
