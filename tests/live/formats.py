"""Answers of language models as bytes, in the formats in which they are streamed: as the services send them, with the
peculiarities of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

TEXT = (
    "Hello",
    ", world",
    "!\n\n",
    "Grüße 🎈",
    "\u2028\u0085",
    ' "quoted" \\ back',
    "",
    "data: not a field",
    "\r\n",
    "[DONE]?",
)
"""Tokens with everything in them that could be taken for something else."""


def _event(value: object, event: str | None = None, *, end: str = "\n", blank: bool = True) -> bytes:
    name = f"event: {event}{end}" if event else ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{name}data:{' ' if blank else ''}{text}{end}{end}".encode()


def openai(*, end: str = "\n") -> bytes:
    """`chat.completion.chunk`s, and `[DONE]`; the service's keep-alives are comments."""

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        value = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1795882371,
            "model": "gpt-x",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        return _event(value, end=end)

    tokens = b"".join(chunk({"content": token}) for token in TEXT)
    start = chunk({"role": "assistant", "content": ""})
    return start + f": keep-alive{end}{end}".encode() + tokens + chunk({}, "stop") + _event("[DONE]", end=end)


def anthropic(*, end: str = "\n", fails: bool = False) -> bytes:
    """Typed events; `ping` in between, and, where it `fails`, an `error` in the stream."""
    message: dict[str, object] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1},
    }
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
            for token in TEXT
        ),
    ]
    if fails:
        events.append({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    else:
        events += [
            {"type": "content_block_stop", "index": 0},
            {**delta, "usage": {"output_tokens": 15}},
            {"type": "message_stop"},
        ]
    return b"".join(_event(value, str(value["type"]), end=end) for value in events)


def vercel() -> bytes:
    """The AI SDK's UI message stream, version 1: parts, and `[DONE]`."""
    parts: list[Mapping[str, object]] = [
        {"type": "start", "messageId": "m1"},
        {"type": "text-start", "id": "t1"},
        *({"type": "text-delta", "id": "t1", "delta": token} for token in TEXT),
        {"type": "text-end", "id": "t1"},
        {"type": "data-weather", "data": {"city": "Zürich", "lines": "a\nb"}},
        {"type": "finish"},
    ]
    return b"".join(_event(part) for part in parts) + _event("[DONE]")


def unusual() -> bytes:
    """What the standard allows and the services don't do, yet."""
    return (
        b"\xef\xbb\xbf: a comment first\r\n\r\n"
        b"data:no blank\r\rdata\n\ndata: two\ndata: lines\n\nid: 7\nretry: 100\nevent: typed\ndata: x\n\n"
        b"unknown: field\ndata:  two blanks\r\n\r\nevent: without data\n\ndata: last\n\n"
    )
