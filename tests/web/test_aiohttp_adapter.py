"""Requests and answers between aiohttp and the handlers."""

from __future__ import annotations

import pytest

from tests.support.http import read_head
from tests.support.local_broker import Server


@pytest.mark.parametrize(
    ("method", "target", "status"), [("DELETE", "/topics/news", 204), ("GET", "/healthz", 200)]
)
async def test_an_answer_before_the_body_was_read_closes(
    server: Server, method: str, target: str, status: int
) -> None:
    reader, _ = await server.send(
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n".encode()
    )
    answered, headers = await read_head(reader)
    assert (answered, headers["connection"]) == (status, "close")
