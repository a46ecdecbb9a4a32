"""A chat whose answers survive a refresh: each is a topic of the broker.

`POST /chat` begins an answer and returns where it will be; a task of this server pipes what the model says into that topic,
whoever watches. The page reads the topic from the broker itself, from its start, as often as it likes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from broker.client import Cancelled, Client, ClientError

PAGE = Path(__file__).parent / "page"
KEPT = "24h"
MOST_ANSWERS = 100
MAX_PROMPT_CHARS = 10_000

_log = logging.getLogger("chat")


@dataclass(frozen=True)
class Model:
    """An OpenAI-compatible endpoint."""

    base_url: str
    key: str = ""
    name: str = "local"


@dataclass
class Chat:
    """What the handlers share; `answers` are those that are being written."""

    model: Model
    client: Client
    session: aiohttp.ClientSession
    answers: set[asyncio.Task[None]] = field(default_factory=set)


CHAT = web.AppKey("chat", Chat)
MODEL = web.AppKey("model", Model)
BROKER_URL = web.AppKey("broker_url", str)


async def begin(request: web.Request) -> web.Response:
    """`POST /chat`, `{"prompt": "…"}`: 202, `{"topic": "…"}`."""
    chat = request.app[CHAT]
    prompt = str((await request.json())["prompt"])[:MAX_PROMPT_CHARS]
    if len(chat.answers) >= MOST_ANSWERS:
        raise web.HTTPServiceUnavailable(text="Too many answers are being written; try again in a moment.")
    topic = f"answers.{secrets.token_urlsafe(12)}"
    task = asyncio.create_task(write(chat, topic, prompt))  # which goes on when this request is over
    chat.answers.add(task)
    task.add_done_callback(chat.answers.discard)
    return web.json_response({"topic": topic}, status=202)


async def stop(request: web.Request) -> web.Response:
    """`POST /chat/{topic}/stop`: whoever writes it is asked to stop, be it another server."""
    await request.app[CHAT].client.cancel(request.match_info["topic"])
    return web.Response(status=202)


async def write(chat: Chat, topic: str, prompt: str) -> None:
    """Pipe the model's answer into `topic`, event by event as the model sends them, `[DONE]` included."""
    try:
        async with chat.client.stream(topic, retain=KEPT) as stream:
            await stream.send(prompt, event="prompt")
            try:
                async for data in ask(chat, prompt):
                    await stream.send(data)
            except aiohttp.ClientError as error:
                await stream.send(json.dumps({"message": f"The model failed: {error}"}), event="failure")
    except Cancelled:
        _log.info("%s was stopped", topic)
    except ClientError as error:
        _log.error("%s was not written to its end: %s", topic, error)


async def ask(chat: Chat, prompt: str) -> AsyncIterator[str]:
    """The data of each event of the model's answer. Raises `aiohttp.ClientError`."""
    model = chat.model
    body = {"model": model.name, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {model.key}"} if model.key else {}
    url = f"{model.base_url.rstrip('/')}/chat/completions"
    async with chat.session.post(url, json=body, headers=headers, raise_for_status=True) as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip().decode()


async def page(request: web.Request) -> web.Response:
    """The page, which is told where the broker is."""
    text = (PAGE / "index.html").read_text().replace("{{broker}}", request.app[BROKER_URL])
    return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})


def create_app(broker_url: str, model: Model) -> web.Application:
    """The chat as an application."""
    app = web.Application()
    app[BROKER_URL], app[MODEL] = broker_url, model
    app.cleanup_ctx.append(_run)
    app.router.add_get("/", page)
    app.router.add_static("/page", PAGE)
    app.router.add_post("/chat", begin)
    app.router.add_post("/chat/{topic}/stop", stop)
    return app


async def _run(app: web.Application) -> AsyncIterator[None]:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)  # a model may think
    async with aiohttp.ClientSession(timeout=timeout) as session, Client(app[BROKER_URL]) as client:
        app[CHAT] = chat = Chat(app[MODEL], client, session)
        yield
        for task in chat.answers:
            task.cancel()
        await asyncio.gather(*chat.answers, return_exceptions=True)
