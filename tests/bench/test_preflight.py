"""Servers that cannot be measured."""

from __future__ import annotations

import asyncio

import pytest

from broker.bench import BenchError, Load, measure


@pytest.mark.parametrize(
    ("path", "publish_path", "reason"),
    [
        ("page", "", r"not an event stream: HTTP/1\.1 200 OK, text/html"),
        ("nothing", "", r"not an event stream: HTTP/1\.1 404"),
        ("topics/t", "page", r"the response to publishing is HTTP/1\.1 405"),
    ],
)
async def test_the_error_names_the_response(
    small_url: str, path: str, publish_path: str, reason: str
) -> None:
    load = Load(small_url + path, publish_url=publish_path and small_url + publish_path, subscribers=1)
    with pytest.raises(BenchError, match=reason) as raised:
        await asyncio.to_thread(measure, load)
    assert "\n" not in str(raised.value)
