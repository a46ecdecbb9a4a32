"""A chat whose answers survive a refresh: each is a topic of the broker.

`POST /chat` begins an answer and returns where it will be; a task of this server pipes what the model says into that topic,
whoever watches. The page reads the topic from the broker itself, from its start, as often as it likes.

Rules: no answer passes through this server on its way to a page, so that a refresh costs it nothing and a restart of it cuts
nobody off who reads. The price is one setting: the broker's `cors_origins` name the chat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from broker.client import Cancelled, Client, ClientError, Stream
from broker.errors import BrokerError
from broker.sse import Decoder

PAGE = Path(__file__).parent / "page"
KEPT = "24h"
MOST_ANSWERS = 100
MAX_PROMPT_CHARS = 10_000
MAX_EVENT_BYTES = 256 << 10

_log = logging.getLogger("chat")


class BrokenOffError(Exception):
    """The model's answer ended before its `[DONE]`: what there is, is not all."""


@dataclass(frozen=True, slots=True)
class Model:
    """An OpenAI-compatible endpoint."""

    base_url: str
    key: str = ""
    name: str = "local"


@dataclass(slots=True)
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
    prompt = await _prompt(request)
    if len(chat.answers) >= MOST_ANSWERS:
        raise web.HTTPServiceUnavailable(text="Too many answers are being written; try again in a moment.")
    topic = f"answers.{secrets.token_urlsafe(12)}"
    task = asyncio.create_task(write(chat, topic, prompt))  # which goes on when this request is over
    chat.answers.add(task)
    task.add_done_callback(chat.answers.discard)
    return web.json_response({"topic": topic}, status=202)


async def _prompt(request: web.Request) -> str:
    """What is asked. Another site's page can't send this type without a preflight, which is refused here."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: application/json, please.")
    try:
        prompt = json.loads(await request.read())["prompt"]
        prompt.encode()  # JSON can say lone surrogates, which are no text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise web.HTTPBadRequest(text='The body is {"prompt": "…"}.') from None
    if not 0 < len(prompt) <= MAX_PROMPT_CHARS:
        raise web.HTTPBadRequest(text=f"A prompt has 1 to {MAX_PROMPT_CHARS} characters.")
    return str(prompt)


async def stop(request: web.Request) -> web.Response:
    """`POST /chat/{topic}/stop`: whoever writes it is asked to stop, be it another server."""
    try:
        await request.app[CHAT].client.cancel(request.match_info["topic"])
    except ClientError as error:
        raise web.HTTPBadGateway(text=error.detail) from None
    return web.Response(status=202)


async def write(chat: Chat, topic: str, prompt: str) -> None:
    """Pipe the model's answer into `topic`, event by event as the model sends them, `[DONE]` included."""
    try:
        async with chat.client.stream(topic, retain=KEPT) as stream:
            await stream.send(prompt, event="prompt")
            await _while_wanted(stream, pipe(chat, stream, prompt))
    except Cancelled:
        _log.info("%s was stopped", topic)
    except ClientError as error:
        _log.error("%s was not written to its end: %s", topic, error)


async def pipe(chat: Chat, stream: Stream, prompt: str) -> None:
    """Send what the model says, or that it failed. Raises `ClientError`."""
    try:
        async with contextlib.aclosing(ask(chat, prompt)) as answer:
            async for data in answer:
                await stream.send(data)
    except (aiohttp.ClientError, BrokenOffError, BrokerError) as error:
        await stream.send(json.dumps({"message": f"The model failed: {error}"}), event="failure")


async def _while_wanted(stream: Stream, writing: Coroutine[None, None, None]) -> None:
    """Run `writing` until it is done or the stream takes no more; leaving the stream then says why.

    A model that thinks sends nothing for minutes, so that the next `send` would come too late for a stop.
    """
    writer, unwanted = asyncio.create_task(writing), asyncio.create_task(stream.cancelled())
    try:
        await asyncio.wait((writer, unwanted), return_when=asyncio.FIRST_COMPLETED)
    finally:
        writer.cancel()  # which ends the request to the model
        unwanted.cancel()
        await asyncio.wait((writer, unwanted))
    if not writer.cancelled():
        writer.result()


async def ask(chat: Chat, prompt: str) -> AsyncGenerator[str]:
    """The data of each event of the model's answer, to `[DONE]`.

    Raises:
        aiohttp.ClientError: the model can't be reached, refuses, or is silent for too long.
        BrokenOffError: it stopped in the middle.
        BrokerError: an event of more than MAX_EVENT_BYTES, or that is no UTF-8.
    """
    model = chat.model
    body = {"model": model.name, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": f"Bearer {model.key}"} if model.key else {}
    url = f"{model.base_url.rstrip('/')}/chat/completions"
    decoder = Decoder(MAX_EVENT_BYTES, strict=True)
    async with chat.session.post(url, json=body, headers=headers, raise_for_status=True) as answer:
        async for chunk in answer.content.iter_any():
            for event in decoder.feed(chunk):
                yield event.data
                if event.data == "[DONE]":
                    return
    raise BrokenOffError("its answer was broken off")


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
    app.router.add_post(r"/chat/{topic:answers\.[\w-]+}/stop", stop)
    return app


async def _run(app: web.Application) -> AsyncIterator[None]:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)  # a model may think
    async with aiohttp.ClientSession(timeout=timeout) as session, Client(app[BROKER_URL]) as client:
        app[CHAT] = chat = Chat(app[MODEL], client, session)
        yield
        for task in chat.answers:
            task.cancel()
        await asyncio.gather(*chat.answers, return_exceptions=True)
