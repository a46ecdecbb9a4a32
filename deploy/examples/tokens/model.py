"""A language model that needs no key and no network. It answers at a steady pace, and always alike to the same question.

It speaks OpenAI's protocol: the answer to `POST /v1/chat/completions` with `stream: true` is an event stream with one
`chat.completion.chunk` per token, then `[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Sequence

from aiohttp import web

TOKENS_PER_SECOND = web.AppKey("tokens_per_second", float)
PARAGRAPHS = 10
SENTENCE = "This answer has a topic of its own, so its readers may come and go: nothing is lost, and nothing comes twice. "


def answer_to(question: str) -> Sequence[str]:
    """The tokens of the answer. Joined, they are its text."""
    paragraphs = [f"{number}. {SENTENCE}\n" for number in range(1, PARAGRAPHS + 1)]
    return re.findall(r"\s*\S+|\s+$", f"You said “{question}”.\n" + "".join(paragraphs))


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer the last message, token by token, until the end or until the client leaves."""
    asked = await request.json()
    if not asked.get("stream"):
        raise web.HTTPBadRequest(text="This model only streams: send stream: true.")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the client has stopped the answer
        await _say(response, answer_to(str(asked["messages"][-1]["content"])), request.app[TOKENS_PER_SECOND])
    return response


async def _say(response: web.StreamResponse, tokens: Sequence[str], per_second: float) -> None:
    for token in tokens:
        await response.write(_chunk({"content": token}, None))
        await asyncio.sleep(1 / per_second)
    await response.write(_chunk({}, "stop"))
    await response.write(b"data: [DONE]\n\n")


def _chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-local",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "local",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def create_app(tokens_per_second: float = 50.0) -> web.Application:
    """The model as an application."""
    app = web.Application()
    app[TOKENS_PER_SECOND] = tokens_per_second
    app.router.add_post("/v1/chat/completions", completions)
    return app
