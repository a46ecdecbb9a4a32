"""The browser client's parser follows the tables that the broker's own encoder and decoder follow, at every cut."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import broker.web.browser_client
from broker.events import Event
from tests.support.waiting import WAIT_SECONDS
from tests.test_sse import CASES, GRAMMAR, ID_TEXT

CLIENT = Path(broker.web.browser_client.__file__).with_name("client.js")
SCRIPT = Path(__file__).with_name("parse.mjs")


def parsed(node: str, streams: Sequence[bytes]) -> list[list[dict[str, Any]]]:
    """For each stream, the different results at all its cuts."""
    given = json.dumps([base64.b64encode(stream).decode() for stream in streams])
    done = subprocess.run(
        [node, str(SCRIPT), str(CLIENT)],
        input=given,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    results: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return results


def expected(events: Sequence[Event], last_id: str, retry_ms: int | None) -> list[dict[str, Any]]:
    """The one result of all cuts."""
    listed = [{"type": event.type or "", "data": event.data, "id": event.id or ""} for event in events]
    return [{"events": listed, "lastEventId": last_id, "retry": retry_ms}]


def test_what_the_encoder_writes(node: str) -> None:
    table = [
        (end.join(wire.split(b"\n")), expected([Event(arrives, event_type, ID_TEXT)], ID_TEXT, None))
        for _, event_type, wire, arrives in CASES
        for end in (b"\n", b"\r", b"\r\n")
    ]
    results = parsed(node, [wire for wire, _ in table])
    assert results == [result for _, result in table]


def test_the_grammar(node: str) -> None:
    table = [
        (end.join(stream.split(b"\n")), expected(events, last_id, retry_ms))
        for stream, events, last_id, retry_ms in GRAMMAR
        for end in (b"\n", b"\r", b"\r\n")
    ]
    results = parsed(node, [stream for stream, _ in table])
    assert results == [result for _, result in table]
