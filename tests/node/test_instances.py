"""Commands to all instances, carried out on this one."""

from __future__ import annotations

import pytest

from broker.auth.grants import ALL_TOPICS, Caller, Grant
from broker.errors import Unauthorized
from broker.fanout import batches
from broker.node.instances import MAX_UNKNOWN_KINDS
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


async def test_each_kind_of_unknown_command_is_reported_once(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer instance may send some of them every few seconds, for as long as the upgrade takes."""
    for number in range(3):
        for name in ("fly", "swim"):
            node.on_broadcast(f'{{"do": "{name}", "at": {number}}}')
        node.on_broadcast(f'{{"do": "disconnect", "new field": {number}}}')
        node.on_broadcast(f"no JSON {number}")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4, lines
    assert ["fly" in lines[0], "swim" in lines[1], "disconnect" in lines[2]] == [True] * 3


async def test_i4_unknown_commands_that_are_remembered_have_a_bound(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10 * MAX_UNKNOWN_KINDS):
        node.on_broadcast(f'{{"do": "kind {number}"}}')
    assert len(caplog.records) == MAX_UNKNOWN_KINDS
