"""What the peers' comparison asks of other servers."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

import pytest

from broker.bench import Load
from broker.bench.plan import resolve
from tests.bench.peers.servers import PEERS, Peer


def posted(peer: Peer, data: bytes) -> tuple[bytes, bytes]:
    """The head and the body of the request that publishes `data` to topic 7."""
    load = Load(url="http://127.0.0.1:1/x", headers=peer.headers, form=peer.form)
    before, after = resolve("http://127.0.0.1:1/" + peer.publish_path.lstrip("/"), load).post(7, len(data))
    head, _, body = (before + data + after).partition(b"\r\n\r\n")
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    return head, body


@pytest.mark.parametrize("name", ["broker", "nchan", "floor", "sse-starlette"])
def test_most_take_the_body_for_the_data(name: str) -> None:
    head, body = posted(PEERS[name], b"^1$ text")
    assert b"\r\nContent-Type: text/plain\r\n" in head
    assert body == b"^1$ text"


def test_mercure_takes_a_form() -> None:
    head, body = posted(PEERS["mercure"], b"^1$ text")
    assert b"\r\nAuthorization: Bearer ey" in head
    assert parse_qs(body.decode()) == {"topic": ["bench.7"], "data": ["^1$ text"]}


def test_centrifugo_takes_json() -> None:
    head, body = posted(PEERS["centrifugo"], b"^1$ text")
    assert b"\r\nX-API-Key: bench" in head
    assert json.loads(body) == {"channel": "bench.7", "data": "^1$ text"}
