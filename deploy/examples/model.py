"""A language model that needs no key and no network. It answers at a steady pace, and always alike to the same conversation.

It speaks OpenAI's protocol: the answer to `POST /v1/chat/completions` with `stream: true` is an event stream with one
`chat.completion.chunk` per token, then `[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence

from aiohttp import web

TOKENS_PER_SECOND = web.AppKey("tokens_per_second", float)

TEXTS = (
    """\
### Where this answer is

This page isn't waiting for a response. A task on the server writes the answer into a **topic** of the broker, piece by \
piece, and the page reads that topic. So the answer doesn't depend on any page:

1. Press **F5** now. The page reads the topic from its beginning, then goes on as if nothing had happened.
2. Open the same address in a second tab. Both show the same text, token for token.
3. Close the window, have a coffee, and come back. The answer is here, complete.

| what happens | what the answer does |
|---|---|
| the page is reloaded | it goes on |
| the network is gone for a minute | it goes on, and the page catches up |
| the broker is killed | it goes on after the restart |
| you press *Stop* | it ends, in every tab |
""",
    """\
### How it is written

The server asks a model and sends each piece on. That takes three lines:

```python
async with broker.stream(topic, retain="24h") as answer:
    async for piece in ask(model, messages):
        await answer.send(piece)
```

- If the block **ends**, the topic is closed, and every reader learns that the answer is complete.
- If it **raises** because the model failed, the topic ends as `failed`. Half an answer never looks like a whole one.
- If a reader presses **Stop**, the block is broken off where it waits, so that no further token is paid for.

The page needs no more than this:

```js
follow(topic, {
  since: "earliest",
  onEvent: ({ data }) => show(data),
  onEnd: ({ reason }) => finish(reason),
});
```
""",
    """\
### The right to read it

Each visitor has topics of their own. The server signs a token that names them, and the page shows it to the broker:

```json
{"sub": "7", "exp": 1795882371, "broker": {"subscribe": ["chats.7.**"]}}
```

> A page without this token gets `401`. A page with another visitor's token gets `403`.

The token is good for **ten minutes**. Before it expires the page asks for the next one, and the stream goes on from its \
cursor: *nothing is lost, and nothing comes twice.*
""",
)
"""One for each question of a conversation, in turn."""


def answer_to(messages: Sequence[Mapping[str, object]]) -> Sequence[str]:
    """The tokens of the answer to a conversation. Joined, they are its text, in Markdown."""
    questions = [str(message["content"]) for message in messages if message["role"] == "user"]
    text = f"You asked: “{questions[-1]}”\n\n{TEXTS[(len(questions) - 1) % len(TEXTS)]}"
    return re.findall(r"\s*\S+|\s+$", text)


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer, token by token, until the end or until the client leaves."""
    asked = await request.json()
    if not asked.get("stream"):
        raise web.HTTPBadRequest(text="This model only streams: send stream: true.")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the client has stopped the answer
        await _say(response, answer_to(asked["messages"]), request.app[TOKENS_PER_SECOND])
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
