"""A chat with answers that survive a refresh: each answer is a topic of the broker.

`POST /chat` starts an answer and returns its topic. A background task publishes the model's output to that topic, with or
without viewers. The page reads the topic from the broker, from its start, as often as it likes.

Rules: answers never pass through this server on their way to a page. So a refresh costs it nothing, and its restart cuts off
no viewer. The price is one setting: the broker's `cors_origins` must name the chat.
Each question costs money. So other sites' pages may neither ask nor stop an answer, not even by a name of theirs that they
have pointed at this server. What the model's errors say stays in the log: topics have readers.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from broker.client import Cancelled, Client, ClientError, Stream
from broker.errors import BrokerError, Forbidden
from broker.sse import Decoder
from broker.web.cors import AllowedOrigins
from broker.web.guard import Guard

PAGE = Path(__file__).parent / "page"
KEPT = "24h"
MOST_ANSWERS = 100
MAX_PROMPT_CHARS = 10_000
MAX_EVENT_BYTES = 256 << 10

_log = logging.getLogger("chat")


class BrokenOffError(Exception):
    """The model's answer ended before its `[DONE]`, so it is incomplete."""


@dataclass(frozen=True, slots=True)
class Model:
    """An OpenAI-compatible endpoint."""

    base_url: str
    key: str = ""
    name: str = "local"


@dataclass(slots=True)
class Chat:
    """The state that the handlers share; `answers` are the tasks of unfinished answers."""

    model: Model
    client: Client
    session: aiohttp.ClientSession
    answers: set[asyncio.Task[None]] = field(default_factory=set)


CHAT = web.AppKey("chat", Chat)
MODEL = web.AppKey("model", Model)
BROKER_URL = web.AppKey("broker_url", str)
GUARD = web.AppKey("guard", Guard)


async def begin(request: web.Request) -> web.Response:
    """`POST /chat`, `{"prompt": "…"}`: 202, `{"topic": "…"}`."""
    chat = request.app[CHAT]
    prompt = await _prompt(request)
    if len(chat.answers) >= MOST_ANSWERS:
        raise web.HTTPServiceUnavailable(text="Too many answers are being written; try again in a moment.")
    topic = f"answers.{secrets.token_urlsafe(12)}"
    task = asyncio.create_task(write(chat, topic, prompt))  # it outlives this request
    chat.answers.add(task)
    task.add_done_callback(chat.answers.discard)
    return web.json_response({"topic": topic}, status=202)


async def _prompt(request: web.Request) -> str:
    """The question."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: application/json, please.")
    try:
        prompt = json.loads(await request.read())["prompt"]
        prompt.encode()  # JSON may contain lone surrogates, which UTF-8 can't encode
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise web.HTTPBadRequest(text='The body is {"prompt": "…"}.') from None
    if not 0 < len(prompt) <= MAX_PROMPT_CHARS:
        raise web.HTTPBadRequest(text=f"A prompt has 1 to {MAX_PROMPT_CHARS} characters.")
    return str(prompt)


async def stop(request: web.Request) -> web.Response:
    """`POST /chat/{topic}/stop`: ask the producer to stop, even if it is another server. 202."""
    try:
        await request.app[CHAT].client.cancel(request.match_info["topic"])
    except ClientError as error:
        _log.error("can't stop %s: %s", request.match_info["topic"], error)
        raise web.HTTPBadGateway(text="The broker didn't take it; try again in a moment.") from None
    return web.Response(status=202)


async def write(chat: Chat, topic: str, prompt: str) -> None:
    """Publish the model's answer to `topic`, event by event as it arrives, including `[DONE]`."""
    try:
        async with chat.client.stream(topic, retain=KEPT) as stream:
            await stream.send(prompt, event="prompt")
            await pipe(chat, stream, prompt)
    except Cancelled:
        _log.info("%s was stopped", topic)
    except ClientError as error:
        _log.error("%s is incomplete: %s", topic, error)


async def pipe(chat: Chat, stream: Stream, prompt: str) -> None:
    """Send the model's answer, or a `failure` event if the model fails. Raises `ClientError`."""
    try:
        async with contextlib.aclosing(ask(chat, prompt)) as answer:
            async for data in answer:
                await stream.send(data)
    except (aiohttp.ClientError, BrokenOffError, BrokerError) as error:
        _log.error("the model failed: %s", error)
        await stream.send(json.dumps({"message": f"The model failed: {reason(error)}."}), event="failure")


def reason(error: Exception) -> str:
    """Why the model failed, in words for readers of the topic: without its address."""
    match error:
        case aiohttp.ClientResponseError(status=status):
            return f"it refused the question with status {status}"
        case TimeoutError():
            return "it was silent for too long"
        case aiohttp.ClientConnectorError() | aiohttp.InvalidURL():
            return "it can't be reached"
        case BrokerError():
            return "its answer is malformed"
        case _:
            return "its answer was broken off"


async def ask(chat: Chat, prompt: str) -> AsyncGenerator[str]:
    """Yield the data of each event of the model's answer, up to and including `[DONE]`.

    Raises:
        aiohttp.ClientError: the model can't be reached, refuses, or is silent for too long.
        BrokenOffError: the answer stopped before `[DONE]`.
        BrokerError: an event has more than MAX_EVENT_BYTES or isn't UTF-8.
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
    """The page, with the broker's URL filled in."""
    broker_url = html.escape(request.app[BROKER_URL])
    text = (PAGE / "index.html").read_text().replace("{{broker}}", broker_url)
    return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a page of another site caused: its `Host` is a name of that site, or its `Origin` isn't this server."""
    try:
        request.app[GUARD].check(request.method, request.path, request.headers)
    except Forbidden:
        raise web.HTTPForbidden(
            text="Only this server's own page may do this; allow its name with --allowed-hosts."
        ) from None
    return await handler(request)


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that limit what the page may load, and forbid other pages to frame it."""
    broker = urlsplit(request.app[BROKER_URL])
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; connect-src 'self' {broker.scheme}://{broker.netloc}; script-src 'self'; style-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


def create_app(broker_url: str, model: Model, allowed_hosts: Collection[str] = ()) -> web.Application:
    """The chat as an application; `allowed_hosts` are names of its own, as the broker's setting has them."""
    app = web.Application(middlewares=[guarded])
    app[BROKER_URL], app[MODEL] = broker_url, model
    app[GUARD] = Guard(checks_host=True, allowed_hosts=allowed_hosts, origins=AllowedOrigins(()))
    app.on_response_prepare.append(secure)
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
