"""No log contains a token."""

from __future__ import annotations

import logging

import pytest

from broker.settings import Settings
from broker.web.redaction import redact
from tests.support.http import read_head
from tests.support.local_broker import Clock, Server

REDACTED = {
    "/topics/a?access_token=secret": "/topics/a?access_token=…",
    "/topics/a?access_token=secret&x=1": "/topics/a?access_token=…&x=1",
    "/topics/a?x=1&access_token=sec.re-t_": "/topics/a?x=1&access_token=…",
    "/?access_token=secret#top": "/?access_token=…#top",
    "/?access_token=one&access_token=two": "/?access_token=…&access_token=…",
    "/?access%5Ftoken=secret": "/?access%5Ftoken=…",
    "/?%61ccess_token=secret": "/?%61ccess_token=…",
    "/?ACCESS_TOKEN=secret": "/?ACCESS_TOKEN=…",
    "b'GET /?access_token=secret'": "b'GET /?access_token=…'",
    "/topics/access_token": "/topics/access_token",
    "/?access_token=": "/?access_token=",
}


@pytest.mark.parametrize("text", REDACTED)
def test_redact(text: str) -> None:
    assert redact(text) == REDACTED[text]


async def test_no_log_has_the_token(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server(Settings(), clock, logging.getLogger("broker.access"))
    await server.start()
    for target in (
        "/topics/a?access_token=s3cret",
        "/nowhere?access%5ftoken=s3cret",
        "/?access_token=s3cret",
    ):
        for method in ("POST", "GET"):
            await server.request(
                method, target, accept="application/json", referer=f"http://x{target}", user_agent="me"
            )
    reader, _writer = await server.send(b"GET /?access_token=s3cret HTTP/9.9\r\n\r\n")
    await read_head(reader, versions=(b"HTTP/1.0", b"HTTP/1.1"))
    await server.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == "broker.access"]
    assert len(lines) == 7
    assert '"POST /topics/a?access_token=… HTTP/1.1" 201' in lines[0]
    assert '"http://x/topics/a?access_token=…" "me"' in lines[0]
    assert "s3cret" not in "".join(str(vars(record)) for record in caplog.records)
