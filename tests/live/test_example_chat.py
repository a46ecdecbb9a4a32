"""The chat server of `deploy/examples/tokens` with a real broker and models that misbehave: each answer reaches its end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import (
    ClientPayloadError,
    ClientSession,
    InvalidURL,
    ServerDisconnectedError,
    ServerTimeoutError,
    SocketTimeoutError,
    web,
)
from aiohttp.test_utils import TestServer

from broker.client import Client
from broker.events import Event
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS

sys.path.append(str(Path(__file__).parents[2] / "deploy" / "examples" / "tokens"))
import chat

WITHIN_SECONDS = WAIT_SECONDS


def chunk(text: str) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


@dataclass
class Thinker:
    """A model that says `first`, and then, if asked to, thinks until its request is gone."""

    first: bytes
    thinks: bool = False
    status: int = 200
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self.first)
        self.asked.set()
        try:
            if self.thinks:
                await asyncio.Event().wait()
        finally:
            self.left.set()
        return response


class Talk:
    """The chat and its model, served; what a page would do."""

    def __init__(self, session: ClientSession, url: str, client: Client) -> None:
        self.session, self.url, self.client = session, url, client

    async def ask(self, prompt: str = "Why?") -> str:
        """The answer's topic."""
        async with self.session.post(f"{self.url}/chat", json={"prompt": prompt}) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["topic"])

    async def stop(self, topic: str) -> int:
        async with self.session.post(f"{self.url}/chat/{topic}/stop") as answer:
            return answer.status

    async def said(self, topic: str) -> list[Event]:
        """All of the topic, once it has ended."""
        async with asyncio.timeout(WITHIN_SECONDS):
            return [event async for event in self.client.follow(topic)]


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(retry_min_ms=50, retry_max_ms=100) as process:
        yield process


@pytest.fixture
def model() -> Thinker:
    return Thinker(chunk("one") + b"data: [DONE]\n\n")


@pytest.fixture
async def talk(broker: BrokerProcess, model: Thinker) -> AsyncIterator[Talk]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", model.answer)
    async with (
        TestServer(application, handler_cancellation=True) as server,
        TestServer(chat.create_app(broker.url, chat.Model(str(server.make_url("/v1"))))) as served,
        ClientSession() as session,
        Client(broker.url) as client,
    ):
        yield Talk(session, str(served.make_url("/")).rstrip("/"), client)


async def test_events_arrive_as_the_model_sent_them(talk: Talk) -> None:
    prompt, *said = await talk.said(await talk.ask("Why\nnow?"))
    assert (prompt.type, prompt.data) == ("prompt", "Why\nnow?")
    assert [event.data for event in said] == [chunk("one").decode()[6:-2], "[DONE]"]


async def test_comments_and_carriage_returns_of_the_model_are_read_as_the_standard_has_it(
    talk: Talk, model: Thinker
) -> None:
    model.first = b": thinking\r\n\r\ndata: [1,\r\ndata: 2]\r\n\r\ndata: [DONE]\r\n\r\n"
    _, *said = await talk.said(await talk.ask())
    assert [event.data for event in said] == ["[1,\n2]", "[DONE]"]


async def test_done_ends_the_answer_though_the_model_keeps_the_connection(talk: Talk, model: Thinker) -> None:
    model.thinks = True
    *_, last = await talk.said(await talk.ask())
    assert last.data == "[DONE]"


async def test_stop_ends_the_answer_and_the_request_of_a_model_that_is_silent(
    talk: Talk, model: Thinker
) -> None:
    model.first, model.thinks = chunk("one"), True
    topic = await talk.ask()
    async with asyncio.timeout(WITHIN_SECONDS):
        await model.asked.wait()
        assert await talk.stop(topic) == 202
        await model.left.wait()
    assert [event.type for event in await talk.said(topic)][:1] == ["prompt"]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(chunk("one"), id="between events"),
        pytest.param(chunk("one") + b'data: {"choi', id="within an event"),
        pytest.param(b"", id="at once"),
        pytest.param(chunk("x" * chat.MAX_EVENT_BYTES), id="too large"),
        pytest.param(b"data: \xff\n\n", id="no UTF-8"),
    ],
)
async def test_an_answer_that_is_broken_off_ends_as_a_failure(
    talk: Talk, model: Thinker, first: bytes
) -> None:
    model.first = first
    *_, last = await talk.said(await talk.ask())
    assert last.type == "failure"
    assert json.loads(last.data)["message"].startswith("The model failed: ")


async def test_a_model_that_refuses_ends_as_a_failure(talk: Talk, model: Thinker) -> None:
    model.status = 401
    *_, last = await talk.said(await talk.ask())
    assert last.type == "failure"
    assert "401" in last.data
    assert "127.0.0.1" not in last.data


async def test_a_failure_does_not_name_the_models_host(broker: BrokerProcess) -> None:
    """A topic has readers, and the host may be internal, or its URL hold a key."""
    model = chat.Model(f"http://127.0.0.1:{free_port()}/secret")
    async with (
        TestServer(chat.create_app(broker.url, model)) as served,
        ClientSession() as session,
        Client(broker.url) as client,
    ):
        talk = Talk(session, str(served.make_url("/")).rstrip("/"), client)
        *_, last = await talk.said(await talk.ask())
    assert json.loads(last.data) == {"message": "The model failed: it can't be reached."}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServerTimeoutError("http://secret"), "it was silent for too long"),
        (SocketTimeoutError("http://secret"), "it was silent for too long"),
        (InvalidURL("http://secret"), "it can't be reached"),
        (ClientPayloadError("http://secret"), "its answer was broken off"),
        (ServerDisconnectedError("http://secret"), "its answer was broken off"),
    ],
)
def test_a_failure_has_words_of_its_own(error: Exception, words: str) -> None:
    assert chat.reason(error) == words


# Other sites

OTHER_SITES = {
    "rebound": {"Host": "evil.example"},
    "rebound, with its own origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "other origin": {"Origin": "http://evil.example"},
    "other port": {"Origin": "http://127.0.0.1:1"},
    "no origin": {"Origin": "null"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
}


@pytest.mark.parametrize("name", OTHER_SITES)
async def test_a_page_of_another_site_may_neither_ask_nor_stop(talk: Talk, model: Thinker, name: str) -> None:
    model.first, model.thinks = chunk("one"), True
    topic = await talk.ask()
    headers = OTHER_SITES[name]
    async with talk.session.post(f"{talk.url}/chat", json={"prompt": "Why?"}, headers=headers) as answer:
        assert answer.status == 403
    async with talk.session.post(f"{talk.url}/chat/{topic}/stop", headers=headers) as answer:
        assert answer.status == 403
    assert not model.left.is_set()
    own = {"Origin": talk.url, "Sec-Fetch-Site": "same-origin"}
    async with talk.session.post(f"{talk.url}/chat/{topic}/stop", headers=own) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("path", ["/", "/page/chat.js"])
async def test_a_rebound_name_gets_no_page(talk: Talk, path: str) -> None:
    async with talk.session.get(f"{talk.url}{path}", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def test_a_public_name_of_its_own_is_allowed(broker: BrokerProcess) -> None:
    app = chat.create_app(broker.url, chat.Model("http://127.0.0.1:1/v1"), ["chat.example"])
    async with TestServer(app) as served, ClientSession() as session:
        headers = {"Host": "chat.example", "Origin": "https://chat.example"}
        async with session.post(served.make_url("/chat"), json={"prompt": "x"}, headers=headers) as answer:
            assert answer.status == 202


async def test_the_page_may_load_only_its_own_files_and_the_broker(talk: Talk, broker: BrokerProcess) -> None:
    for path in ("/", "/page/chat.js"):
        async with talk.session.get(f"{talk.url}{path}") as answer:
            policy = dict(
                part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
            )
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == f"'self' {broker.url}"
        assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "{}", '{"prompt": 1}', '{"prompt": ""}', '{"prompt": "\\ud800"}']
)
async def test_a_body_that_asks_nothing_is_refused(talk: Talk, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with talk.session.post(f"{talk.url}/chat", data=body, headers=headers) as answer:
        assert answer.status == 400


async def test_a_prompt_that_is_too_long_is_refused_not_cut(talk: Talk) -> None:
    body = {"prompt": "x" * (chat.MAX_PROMPT_CHARS + 1)}
    async with talk.session.post(f"{talk.url}/chat", json=body) as answer:
        assert answer.status == 400


async def test_a_type_that_a_page_elsewhere_may_send_is_refused(talk: Talk) -> None:
    async with talk.session.post(f"{talk.url}/chat", data='{"prompt": "Why?"}') as answer:
        assert answer.status == 415


async def test_only_answers_can_be_stopped(talk: Talk) -> None:
    assert await talk.stop("news") == 404


async def test_no_more_answers_than_the_bound_are_written_at_once(
    talk: Talk, model: Thinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MOST_ANSWERS", 1)
    model.first, model.thinks = chunk("one"), True
    topic = await talk.ask()
    async with talk.session.post(f"{talk.url}/chat", json={"prompt": "Why?"}) as answer:
        assert answer.status == 503
    assert await talk.stop(topic) == 202
    await talk.said(topic)
