"""The text of commands to all instances."""

from __future__ import annotations

import pytest

from broker.node.commands import Cancel, Command, Disconnect, Revoke, decode, encode


@pytest.mark.parametrize(
    "command",
    [
        Disconnect(1.5, subject="ann\n\u2028"),
        Disconnect(1.5, topic="news"),
        Revoke(2.0, 3.0, token_id="7"),
        Revoke(2.5, 3.0, subject="ann"),
        Cancel("news", 3.0),
    ],
)
def test_decode_reads_what_encode_wrote(command: Command) -> None:
    text = encode(command)
    assert decode(text) == command
    assert "\n" not in text


@pytest.mark.parametrize(
    "text", ["", "x", "1", "null", "[]", "{}", '{"do": "fly"}', '{"do": []}', '{"do": "cancel", "x": 1}']
)
def test_an_unknown_command_decodes_to_none(text: str) -> None:
    assert decode(text) is None
