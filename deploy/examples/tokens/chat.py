"""A chat with answers that survive a refresh: each answer is a topic of the broker, and so is the list of a user's questions.

`POST /ask` starts an answer and returns. A background task writes it into its topic, with or without viewers. The page reads the
topics from the broker, with a token for this user's topics only.

Rules: answers never pass through this server on their way to a page. So a refresh costs it nothing, and its restart cuts off no
viewer. Each question costs money: so only this server's own page may ask or stop, and a user writes few answers at a time. What
the model's errors say stays in the log: they may name its address, and topics have readers.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jwt
from aiohttp import web
from aiohttp.typedefs import Handler
from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletionMessageParam

from broker.client import Cancelled, Client, ClientError

PAGE = Path(__file__).parent / "page"
CLIENT = Path(str(files("broker.web.browser_client")))
LIBRARIES = (
    "https://cdn.jsdelivr.net/npm/marked@18.2.1/lib/marked.umd.js",
    "https://cdn.jsdelivr.net/npm/dompurify@3.5.0/dist/purify.min.js",
)
"""What the page shows Markdown with; its `index.html` has their hashes. Without them, answers are plain text."""
KEPT = "24h"
COOKIE = "chat_user"
COOKIE_SECONDS = 30 * 24 * 3600
TOKEN_SECONDS = 600
MAX_ANSWERS = 100
MAX_ANSWERS_OF_A_USER = 4
MAX_QUESTION_CHARS = 10_000
EARLIER_QUESTIONS = 5
"""How many earlier questions, with their answers, the model gets."""

_log = logging.getLogger("chat")


class BrokenOffError(Exception):
    """The model's answer stopped before its end."""


@dataclass(slots=True)
class Chat:
    """The state that the handlers share; `writing` has the user of each unfinished answer, by its topic."""

    broker: Client
    openai: AsyncOpenAI
    model: str
    writing: dict[str, str] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


CHAT = web.AppKey("chat", Chat)
BROKER_URL = web.AppKey("broker_url", str)
SECRET = web.AppKey("secret", str)
HOSTS = web.AppKey("hosts", frozenset[str])
USER = web.RequestKey("user", str)


# Users


@web.middleware
async def for_own_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse pages of other sites, also if they point their own name at this server. Make a visitor a user: your login goes here."""
    headers = request.headers
    if re.sub(r":\d+$", "", request.host.lower()) not in request.app[HOSTS]:
        raise web.HTTPForbidden(text="This server has another name; set it in ALLOWED_HOSTS.")
    is_foreign = headers.get("Origin", f"//{request.host}").partition("//")[2] != request.host
    if request.method == "POST" and (is_foreign or headers.get("Sec-Fetch-Site") == "cross-site"):
        raise web.HTTPForbidden(text="Only this server's own page may do this.")
    known = known_user(request)
    if known is None and request.path in ("/token", "/ask", "/stop"):
        raise web.HTTPUnauthorized(text="Load the page first.")
    user = request[USER] = known or secrets.token_hex(8)
    response = await handler(request)
    if request.path == "/":
        claims = {"sub": user, "aud": COOKIE, "exp": time.time() + COOKIE_SECONDS}
        cookie = jwt.encode(claims, request.app[SECRET])
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="Lax", max_age=COOKIE_SECONDS)
    return response


def known_user(request: web.Request) -> str | None:
    """The user that the cookie names. Its `aud` keeps it apart from the broker's tokens, which the same secret signs."""
    try:
        claims = jwt.decode(request.cookies.get(COOKIE, ""), request.app[SECRET], ["HS256"], audience=COOKIE)
    except jwt.InvalidTokenError:
        return None
    return str(claims["sub"])


def make_token(secret: str, subject: str, **rights: list[str]) -> str:
    """A token for the broker; `rights` are patterns of topics."""
    now = time.time()
    return jwt.encode({"sub": subject, "iat": now, "exp": now + TOKEN_SECONDS, "broker": rights}, secret)


async def token(request: web.Request) -> web.Response:
    """`GET /token`: what lets the page read this user's topics, and no others."""
    made = make_token(request.app[SECRET], request[USER], subscribe=[f"chats.{request[USER]}.**"])
    return web.Response(text=made, headers={"Cache-Control": "no-store"})


# Questions and answers


async def ask(request: web.Request) -> web.Response:
    """`POST /ask`, `{"question": "…"}`: 202, `{"answer": "TOPIC"}`."""
    chat, user = request.app[CHAT], request[USER]
    question = await _text(request, "question")
    if not 0 < len(question) <= MAX_QUESTION_CHARS:
        raise web.HTTPBadRequest(text=f"A question has 1 to {MAX_QUESTION_CHARS} characters.")
    if Counter(chat.writing.values())[user] >= MAX_ANSWERS_OF_A_USER or len(chat.writing) >= MAX_ANSWERS:
        raise web.HTTPTooManyRequests(text="Too many answers are being written; try again in a moment.")
    topic, questions = f"chats.{user}.{secrets.token_urlsafe(12)}", f"chats.{user}.questions"
    chat.writing[topic] = user
    try:
        messages = await conversation(chat.broker, questions)
        await chat.broker.publish(questions, json.dumps({"question": question, "answer": topic}), retain=KEPT)
    except ClientError as error:
        del chat.writing[topic]
        raise unavailable(error) from None
    messages.append({"role": "user", "content": question})
    task = asyncio.create_task(answer(chat, topic, messages))  # it outlives this request
    chat.tasks.add(task)
    task.add_done_callback(chat.tasks.discard)
    return web.json_response({"answer": topic}, status=202)


async def stop(request: web.Request) -> web.Response:
    """`POST /stop`, `{"answer": "TOPIC"}`: ask the producer to stop, even if it is another server. 202."""
    topic = await _text(request, "answer")
    if not topic.startswith(f"chats.{request[USER]}."):
        raise web.HTTPNotFound(text="You have no such answer.")
    try:
        await request.app[CHAT].broker.cancel(topic)
    except ClientError as error:
        raise unavailable(error) from None
    return web.Response(status=202)


def unavailable(error: ClientError) -> web.HTTPException:
    """What the page gets if the broker doesn't answer."""
    _log.error("%s", error)
    return web.HTTPBadGateway(text="The broker didn't take it; try again in a moment.")


async def _text(request: web.Request, member: str) -> str:
    """A member of the JSON that the request brings."""
    if request.content_type != "application/json":  # which a page elsewhere can't send
        raise web.HTTPUnsupportedMediaType(text="Content-Type: application/json, please.")
    try:
        text = json.loads(await request.read())[member]
        text.encode()  # JSON may contain lone surrogates, which UTF-8 can't encode
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise web.HTTPBadRequest(text=f'The body is {{"{member}": "…"}}.') from None
    return str(text)


async def answer(chat: Chat, topic: str, messages: list[ChatCompletionMessageParam]) -> None:
    """Write the model's answer to `topic`. If the model fails, the topic ends as `failed`; if the user stops it, as `cancelled`."""
    try:
        async with chat.broker.stream(topic, retain=KEPT) as stream:
            async for text in complete(chat, messages):
                await stream.send(text)
    except Cancelled:
        _log.info("%s was stopped", topic)
    except (ClientError, OpenAIError, httpx.HTTPError, BrokenOffError, ValueError) as error:
        _log.error("%s is incomplete: %s: %s", topic, type(error).__name__, error)
    finally:
        del chat.writing[topic]


async def conversation(broker: Client, questions: str) -> list[ChatCompletionMessageParam]:
    """The last questions and their answers."""
    messages: list[ChatCompletionMessageParam] = []
    for event in (await broker.history(questions, last=EARLIER_QUESTIONS)).events:
        asked = json.loads(event.data)
        messages.append({"role": "user", "content": asked["question"]})
        messages.append({"role": "assistant", "content": await text_of(broker, asked["answer"])})
    return messages


async def text_of(broker: Client, topic: str) -> str:
    """An answer, as far as it has been written."""
    page = await broker.history(topic, limit=1000)
    text = "".join(event.data for event in page.events)
    while page.more:
        page = await broker.history(topic, cursor=page.cursor, limit=1000)
        text += "".join(event.data for event in page.events)
    return text


async def complete(chat: Chat, messages: list[ChatCompletionMessageParam]) -> AsyncIterator[str]:
    """The model's answer, in pieces. Raises `BrokenOffError` if it stops without saying why."""
    ended = None
    async with await chat.openai.chat.completions.create(
        model=chat.model, messages=messages, stream=True
    ) as chunks:
        async for chunk in chunks:
            for choice in chunk.choices:
                ended = choice.finish_reason or ended
                if choice.delta.content:
                    yield choice.delta.content
    if ended is None:
        raise BrokenOffError("the model's answer was broken off")


# The page and the application


async def page(request: web.Request) -> web.Response:
    """The page, for this user."""
    text = (PAGE / "index.html").read_text()
    for name, value in (("broker", request.app[BROKER_URL]), ("user", request[USER])):
        text = text.replace(f"{{{{{name}}}}}", html.escape(value))
    return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Limit what the page may load, have text become HTML only by DOMPurify, and forbid other pages to frame it."""
    broker = urlsplit(request.app[BROKER_URL])
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; connect-src 'self' {broker.scheme}://{broker.netloc}; "
        f"script-src 'self' {' '.join(LIBRARIES)}; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


def create_app(
    broker_url: str, secret: str, openai: AsyncOpenAI, model: str, allowed_hosts: Collection[str] = ()
) -> web.Application:
    """The chat as an application; `allowed_hosts` are names of its own besides loopback's."""
    app = web.Application(middlewares=[for_own_pages])
    app[BROKER_URL], app[SECRET] = broker_url, secret
    app[HOSTS] = frozenset({"localhost", "127.0.0.1", "[::1]", *allowed_hosts})
    app.on_response_prepare.append(secure)
    app.router.add_get("/", page)
    app.router.add_static("/page", PAGE)
    app.router.add_static("/client", CLIENT)
    app.router.add_get("/token", token)
    app.router.add_post("/ask", ask)
    app.router.add_post("/stop", stop)

    async def run(app: web.Application) -> AsyncIterator[None]:
        async def own_token() -> str:
            return make_token(secret, "chat", publish=["chats.**"], subscribe=["chats.**"])

        async with Client(broker_url, token=own_token) as client, openai:
            app[CHAT] = chat = Chat(client, openai, model)
            yield
            for task in chat.tasks:
                task.cancel()
            await asyncio.gather(*chat.tasks, return_exceptions=True)

    app.cleanup_ctx.append(run)
    return app


def main() -> None:
    """Serve the chat, with what the environment says."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    given = os.environ
    names = [name.strip().lower() for name in given.get("ALLOWED_HOSTS", "").split(",") if name.strip()]
    model = given.get("OPENAI_MODEL", "gpt-5-mini")
    app = create_app(given["BROKER_URL"], given["BROKER_SECRET"], AsyncOpenAI(), model, names)
    web.run_app(app, host="127.0.0.1", port=int(given.get("PORT", "8000")), print=None, access_log=None)


if __name__ == "__main__":
    main()
