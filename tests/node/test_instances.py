"""Commands to all instances, carried out on this one."""

from __future__ import annotations

import pytest

from broker.auth.grants import ALL_TOPICS, Caller, Grant
from broker.errors import Unauthorized
from broker.fanout import batches
from broker.node.node import Node
from tests.node.conftest import OpenStream

ANN, BOB = (Caller(Grant(ALL_TOPICS, ALL_TOPICS, subject=name)) for name in ("ann", "bob"))


async def test_disconnect_ends_the_streams_of_its_subject_only(node: Node, open_stream: OpenStream) -> None:
    ann, bob = await open_stream(ANN), await open_stream(BOB)
    await node.instances.disconnect(subject="ann")
    assert ann.read().startswith(b"retry: ")
    assert bob.read() == b""


async def test_revoke_refuses_the_tokens_of_its_subject_and_ends_their_streams(
    node: Node, open_stream: OpenStream
) -> None:
    ann = await open_stream(ANN)
    await node.instances.revoke(subject="ann")
    assert ann.read().startswith(b'event: broker.expired\ndata: {"reason":"revoked"}\n\nretry: ')
    with pytest.raises(Unauthorized):
        node.streams.evictions.check(ANN.grant)
    node.streams.evictions.check(BOB.grant)


async def test_i4_while_subscribers_are_written_a_cancel_another_adds_nothing(
    node: Node, open_stream: OpenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ACTS", 1)
    cancelled: list[str] = []
    node.instances.on_cancel = cancelled.append
    for _ in range(2):
        await open_stream()
    for _ in range(2):
        await node.instances.cancel("a")
    assert cancelled == ["a", "a"]
    assert len(node.streams.batches) == 1


async def test_an_unknown_command_is_ignored(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.on_broadcast('{"do": "fly"}')
    assert "ignored an unknown command" in caplog.text
