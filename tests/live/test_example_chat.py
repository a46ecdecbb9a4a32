"""The chat server of `deploy/examples/tokens` with a real broker and models that misbehave: each answer reaches its end."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI
from yarl import URL

from broker.client import Client, SubscribeError
from tests.live.examples import EXAMPLES
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS, until

sys.path.append(str(EXAMPLES / "tokens"))
import chat

WITHIN_SECONDS = WAIT_SECONDS
EVERYTHING = HMAC.token(["**"], ["**"])


def chunk(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()


END = chunk("", "stop") + b"data: [DONE]\n\n"


@dataclass
class Thinker:
    """A model that says `first`, and then, if asked to, thinks until its request is gone."""

    first: bytes
    thinks: bool = False
    status: int = 200
    left: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.messages = (await request.json())["messages"]
        response = web.StreamResponse(status=self.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self.first)
        try:
            if self.thinks:
                await asyncio.Event().wait()
        finally:
            self.left.set()
        return response


class Talk:
    """The chat and its model, served; what a page would do. The session has loaded the page, so it is a user's."""

    def __init__(self, session: ClientSession, url: str, client: Client) -> None:
        self.session, self.url, self.client = session, url, client

    async def ask(self, question: str = "Why?") -> str:
        """The answer's topic."""
        async with self.session.post(f"{self.url}/ask", json={"question": question}) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["answer"])

    async def stop(self, topic: str) -> int:
        async with self.session.post(f"{self.url}/stop", json={"answer": topic}) as answer:
            return answer.status

    async def begun(self, topic: str) -> str:
        """Wait until the topic has its first event; returns the topic. From now on a stop meets its producer."""
        async with (
            asyncio.timeout(WITHIN_SECONDS),
            self.client.subscribe(topic, since="earliest") as events,
        ):
            await anext(aiter(events))
        return topic

    async def said(self, topic: str) -> list[str]:
        """All of the topic, once it has ended. Raises `SubscribeError` with the code `failed` if it ended as such."""
        async with asyncio.timeout(WITHIN_SECONDS):
            return [event.data async for event in self.client.follow(topic)]

    async def ends_as(self, topic: str) -> str:
        """Why the topic ended."""
        async with asyncio.timeout(WITHIN_SECONDS), self.client.subscribe(topic, since="earliest") as events:
            async for event in events:
                assert "127.0.0.1" not in event.data
            return events.ended[topic]


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(retry_min_ms=50, retry_max_ms=100, jwt_secrets=[SECRET]) as process:
        yield process


@pytest.fixture
def model() -> Thinker:
    return Thinker(chunk("one") + chunk(" two") + END)


@pytest.fixture
async def talk(broker: BrokerProcess, model: Thinker) -> AsyncIterator[Talk]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", model.answer)
    async with (
        TestServer(application, handler_cancellation=True) as server,
        talking(broker, str(server.make_url("/v1"))) as talk,
    ):
        yield talk


@asynccontextmanager
async def talking(broker: BrokerProcess, model_url: str, *allowed_hosts: str) -> AsyncIterator[Talk]:
    """A user of a chat that asks the model at `model_url`."""
    openai = AsyncOpenAI(base_url=model_url, api_key="none", max_retries=0)
    app = chat.create_app(broker.url, SECRET, openai, "local", allowed_hosts)
    async with (
        TestServer(app) as served,
        ClientSession(cookie_jar=CookieJar(unsafe=True)) as session,  # for an address
        Client(broker.url, token=EVERYTHING) as client,
    ):
        talk = Talk(session, str(served.make_url("/")).rstrip("/"), client)
        async with session.get(talk.url) as page:
            assert page.status == 200
        yield talk


# Answers


async def test_the_pieces_of_an_answer_are_events(talk: Talk) -> None:
    assert await talk.said(await talk.ask()) == ["one", " two"]


async def test_the_model_gets_the_questions_and_answers_before(talk: Talk, model: Thinker) -> None:
    for question in ("Why?", "How\nso?"):
        await talk.said(await talk.ask(question))
    assert model.messages == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "one two"},
        {"role": "user", "content": "How\nso?"},
    ]


async def test_the_model_gets_a_long_answer_whole(talk: Talk, model: Thinker) -> None:
    """It has more events than one page of history."""
    model.first = chunk("x") * 2500 + END
    await talk.said(await talk.ask())
    await talk.said(await talk.ask())
    assert model.messages[1] == {"role": "assistant", "content": "x" * 2500}


async def test_stop_ends_the_answer_and_the_request_of_a_model_that_is_silent(
    talk: Talk, model: Thinker
) -> None:
    model.first, model.thinks = chunk("one"), True
    topic = await talk.begun(await talk.ask())
    async with asyncio.timeout(WITHIN_SECONDS):
        assert await talk.stop(topic) == 202
        await model.left.wait()
    assert await talk.ends_as(topic) == "cancelled"


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(chunk("one"), id="between events"),
        pytest.param(chunk("one") + b'data: {"choi\n\n', id="no JSON"),
        pytest.param(
            chunk("one") + b'data: {"error": {"message": "http://127.0.0.1 is full"}}\n\n', id="error"
        ),
        pytest.param(b"", id="at once"),
        pytest.param(b"data: \xff\n\n", id="no UTF-8"),
    ],
)
async def test_an_answer_that_is_broken_off_has_failed(talk: Talk, model: Thinker, first: bytes) -> None:
    model.first = first
    topic = await talk.ask()
    with pytest.raises(SubscribeError) as caught:
        await talk.said(topic)
    assert caught.value.code == "failed"


async def test_a_model_that_refuses_has_failed(
    talk: Talk, model: Thinker, caplog: pytest.LogCaptureFixture
) -> None:
    model.status = 401
    assert await talk.ends_as(await talk.ask()) == "failed"
    await until(lambda: "401" in caplog.text, "the log tells it: it may follow the end")


async def test_a_failure_does_not_name_the_models_address(
    broker: BrokerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic has readers, and the host may be internal, or its URL hold a key. `ends_as` looks at the events."""
    async with talking(broker, f"http://127.0.0.1:{free_port()}/secret") as talk:
        topic = await talk.ask()
        assert await talk.ends_as(topic) == "failed"
        await until(lambda: "is incomplete: APIConnectionError" in caplog.text, "the log tells it")


# Users


async def test_a_user_stops_only_their_own_answers(talk: Talk, broker: BrokerProcess, model: Thinker) -> None:
    model.first, model.thinks = chunk("one"), True
    topic = await talk.begun(await talk.ask())
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as stranger:
        async with stranger.post(f"{talk.url}/stop", json={"answer": topic}) as answer:
            assert answer.status == 401
        async with (
            stranger.get(talk.url),
            stranger.post(f"{talk.url}/stop", json={"answer": topic}) as answer,
        ):
            assert answer.status == 404
    assert await talk.stop("news") == 404
    assert not model.left.is_set()
    assert await talk.stop(topic) == 202


@pytest.mark.parametrize("path", ["/token", "/ask", "/stop"])
async def test_a_cookie_that_this_server_has_not_signed_is_none(talk: Talk, path: str) -> None:
    """A token for the broker is none either, though the same secret signs it."""
    async with talk.session.get(f"{talk.url}/token") as answer:
        token = await answer.text()
    forged = jwt.encode({"sub": "7", "aud": chat.COOKIE}, "another secret of thirty-two bytes and more")
    for cookie in (token, forged, "", "x"):
        async with ClientSession(
            cookies={chat.COOKIE: cookie}, cookie_jar=CookieJar(unsafe=True)
        ) as stranger:
            method = "GET" if path == "/token" else "POST"
            body = {"question": "Why?", "answer": "chats.7.x"} if method == "POST" else None
            async with stranger.request(method, f"{talk.url}{path}", json=body) as answer:
                assert answer.status == 401


async def test_the_cookie_is_for_this_site_alone_and_no_script_sees_it(talk: Talk) -> None:
    (cookie,) = talk.session.cookie_jar
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")


async def test_a_token_reads_one_users_topics_for_ten_minutes(talk: Talk) -> None:
    async with talk.session.get(f"{talk.url}/token") as answer:
        claims = jwt.decode(await answer.text(), SECRET, ["HS256"])
    assert claims["broker"] == {"subscribe": [f"chats.{claims['sub']}.**"]}
    assert claims["exp"] - claims["iat"] == 600


# Other sites

OTHER_SITES = {
    "rebound": {"Host": "evil.example"},
    "no host at all": {"Host": "["},
    "no URL": {"Origin": "http://["},
    "rebound, with its own origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "other origin": {"Origin": "http://evil.example"},
    "other port": {"Origin": "http://127.0.0.1:1"},
    "no origin": {"Origin": "null"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
}


@pytest.mark.parametrize("name", OTHER_SITES)
async def test_a_page_of_another_site_may_neither_ask_nor_stop(talk: Talk, model: Thinker, name: str) -> None:
    model.first, model.thinks = chunk("one"), True
    topic = await talk.begun(await talk.ask())
    cookie = {
        key: value.value for key, value in talk.session.cookie_jar.filter_cookies(URL(talk.url)).items()
    }
    assert cookie
    headers = OTHER_SITES[name]
    for path, body in (("/ask", {"question": "Why?"}), ("/stop", {"answer": topic})):
        async with talk.session.post(
            f"{talk.url}{path}", json=body, headers=headers, cookies=cookie
        ) as answer:
            assert answer.status == 403
    assert not model.left.is_set()
    own = {"Origin": talk.url, "Sec-Fetch-Site": "same-origin"}
    async with talk.session.post(f"{talk.url}/stop", json={"answer": topic}, headers=own) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("path", ["/", "/token", "/page/chat.js", "/client/client.js"])
async def test_a_rebound_name_gets_nothing(talk: Talk, path: str) -> None:
    async with talk.session.get(f"{talk.url}{path}", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def test_a_public_name_of_its_own_is_allowed(broker: BrokerProcess) -> None:
    async with talking(broker, "http://127.0.0.1:1/v1", "chat.example") as talk:
        (cookie,) = talk.session.cookie_jar
        headers = {"Host": "chat.example", "Origin": "https://chat.example"}
        async with talk.session.post(
            f"{talk.url}/ask", json={"question": "x"}, headers=headers, cookies={cookie.key: cookie.value}
        ) as answer:
            assert answer.status == 202


async def test_the_page_may_load_only_its_own_files_the_libraries_and_the_broker(
    talk: Talk, broker: BrokerProcess
) -> None:
    for path in ("/", "/page/chat.js", "/client/client.js"):
        async with talk.session.get(f"{talk.url}{path}") as answer:
            assert answer.status == 200
            policy = dict(
                part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
            )
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == f"'self' {broker.url}"
        assert policy["script-src"] == f"'self' {' '.join(chat.LIBRARIES)}"
        assert policy["frame-ancestors"] == "'none'"


# Bad requests


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "{}", '{"question": 1}', '{"question": ""}', '{"question": "\\ud800"}']
)
async def test_a_body_that_asks_nothing_is_refused(talk: Talk, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with talk.session.post(f"{talk.url}/ask", data=body, headers=headers) as answer:
        assert answer.status == 400


async def test_a_question_that_is_too_long_is_refused_not_cut(talk: Talk) -> None:
    body = {"question": "x" * (chat.MAX_QUESTION_CHARS + 1)}
    async with talk.session.post(f"{talk.url}/ask", json=body) as answer:
        assert answer.status == 400


async def test_a_type_that_a_page_elsewhere_may_send_is_refused(talk: Talk) -> None:
    async with talk.session.post(f"{talk.url}/ask", data='{"question": "Why?"}') as answer:
        assert answer.status == 415


@pytest.mark.parametrize("bound", ["MAX_ANSWERS", "MAX_ANSWERS_OF_A_USER"])
async def test_no_more_answers_than_the_bounds_are_written_at_once(
    talk: Talk, model: Thinker, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(chat, bound, 1)
    model.first, model.thinks = chunk("one"), True
    topic = await talk.begun(await talk.ask())
    async with talk.session.post(f"{talk.url}/ask", json={"question": "Why?"}) as answer:
        assert answer.status == 429
    assert await talk.stop(topic) == 202
    await talk.said(topic)
    model.thinks, model.first = False, chunk("two") + END
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:  # the task of the first answer ends a moment after its topic
            async with talk.session.post(f"{talk.url}/ask", json={"question": "Why?"}) as answer:
                if answer.status == 202:
                    topic = (await answer.json())["answer"]
                    break
    assert await talk.said(topic) == ["two"]


async def test_a_broker_that_is_gone_is_told_to_the_page_and_takes_no_place(
    model: Thinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "MAX_ANSWERS_OF_A_USER", 1)
    with BrokerProcess(jwt_secrets=[SECRET]) as broker:
        async with talking(broker, "http://127.0.0.1:1/v1") as talk:
            broker.kill()
            for _ in range(2):
                async with talk.session.post(f"{talk.url}/ask", json={"question": "Why?"}) as answer:
                    assert answer.status == 502
                    assert "127.0.0.1" not in await answer.text()
