"""The AI SDK's `useChat` and the React hooks, as installed from npm, in Chromium against a real broker.

An application's server and its model are the test's: it says piece by piece what the model answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession, web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, expect

import broker.web.browser_client
from tests.live.event_source import MODULES
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.waiting import WAIT_SECONDS, until

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's

CLIENT = Path(broker.web.browser_client.__file__).parent
SOURCE = Path(__file__).with_name("chat_app.jsx")
PAGE = "<!doctype html><title>chat</title><body><script type=module src=/app.js></script>"
TOKENS = ["Grüße", " from\n", "a  *model*", " 🎈", "\u2028", ".", ""]


@pytest.fixture(scope="session")
def app_script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The application, bundled."""
    if not (MODULES / "esbuild").exists():
        pytest.fail("npm's packages are missing: tests/run installs them into .cache/node")
    made = tmp_path_factory.mktemp("app") / "app.js"
    aliases = {"sse-broker/chat": "client/chat.js", "sse-broker/react": "client/react.js"}
    command = [
        "node",
        str(MODULES / "esbuild" / "bin" / "esbuild"),
        str(SOURCE),
        "--bundle",
        "--format=esm",
        "--jsx=automatic",
        f"--outfile={made}",
        *(f"--alias:{name}={CLIENT / path}" for name, path in aliases.items()),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        env={**os.environ, "NODE_PATH": str(MODULES)},
    )
    assert done.returncode == 0, done.stderr
    return made.read_bytes()


class Application:
    """An application's server: it sends the answers of a model, which the test is, to the broker.

    Attributes:
        url: such as `http://127.0.0.1:40123`.
        answers: what the model says, or None if it fails; one queue for each answer.
        ended: how each answer ended for its producer.
    """

    def __init__(self, script: bytes) -> None:
        self.broker_url = ""
        self.answers: list[asyncio.Queue[str | None]] = []
        self.ended: list[str] = []
        self._script = script
        self._topics: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._server: TestServer | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/app.js", self._app)
        app.router.add_post("/api/chat", self._ask)
        app.router.add_get("/api/chat/{chat}", self._resume)
        self._server = TestServer(app)
        await self._server.start_server()
        self.url = f"http://127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._server is not None
        await self._server.close()

    def resume_at(self, chat: str, topic: str) -> None:
        """Have the last answer of `chat` be `topic`."""
        self._topics[chat] = topic

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def _app(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._script, content_type="text/javascript")

    async def _ask(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["messages"][-1]["parts"] == [{"type": "text", "text": "A question"}]
        topic = self._topics[asked["id"]] = f"chat.{asked['id']}.{len(self.answers)}"
        self.answers.append(asyncio.Queue())
        self._tasks.append(asyncio.create_task(self._answer(topic, self.answers[-1])))
        return web.json_response({"topic": topic})

    async def _resume(self, request: web.Request) -> web.Response:
        topic = self._topics.get(request.match_info["chat"])
        return web.Response(status=204) if topic is None else web.json_response({"topic": topic})

    async def _answer(self, topic: str, tokens: asyncio.Queue[str | None]) -> None:
        url = f"{self.broker_url}/topics/{topic}"
        headers = {"Content-Type": "text/event-stream"}
        async with ClientSession() as session:
            try:
                answer = await session.post(
                    url, params={"end": "true"}, data=self._body(tokens), headers=headers
                )
                self.ended.append((await answer.json()).get("code", "done"))
            except (ClientError, ModelFailed):
                await session.post(url, params={"end": "true", "reason": "failed"})
                self.ended.append("failed")

    async def _body(self, tokens: asyncio.Queue[str | None]) -> AsyncIterator[bytes]:
        yield piece(type="start", messageId="message-1")
        yield piece(type="text-start", id="text-1")
        while token := await tokens.get():
            yield piece(type="text-delta", id="text-1", delta=token)
        if token is None:
            raise ModelFailed
        yield piece(type="text-end", id="text-1")
        yield piece(type="finish")
        yield b"data: [DONE]\n\n"


class ModelFailed(Exception):
    """The model broke off its answer."""


def piece(**chunk: str) -> bytes:
    """A part of the AI SDK's UI message stream."""
    return b"data: %b\n\n" % json.dumps(chunk).encode()


@pytest_asyncio.fixture(loop_scope="session")
async def application(app_script: bytes) -> AsyncIterator[Application]:
    """The application before its own broker."""
    application = Application(app_script)
    await application.start()
    with BrokerProcess(cors_origins=application.url, retry_min_ms=50, retry_max_ms=50) as process:
        application.broker_url = process.url
        yield application
        await application.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser) -> Page:
    """A tab that may be one of several."""
    return await (await chromium.new_context()).new_page()


async def open_chat(page: Page, application: Application) -> None:
    await page.goto(f"{application.url}/?broker={application.broker_url}&chat=c1")
    await expect(page.locator("#send")).to_be_attached()


async def ask(page: Page, application: Application) -> asyncio.Queue[str | None]:
    """Ask a question; returns what takes the pieces of its answer."""
    count = len(application.answers)
    await page.locator("#send").dispatch_event("click")
    await until(lambda: len(application.answers) > count, "the question to arrive")
    return application.answers[-1]


async def shows(page: Page, text: str, status: str) -> None:
    """Wait until `page` shows exactly this."""
    await expect(page.locator("#status")).to_have_text(status)
    await page.wait_for_function(
        "text => document.querySelector('#text').textContent == text", arg=text, timeout=1000 * WAIT_SECONDS
    )


def say(answer: asyncio.Queue[str | None], *tokens: str | None) -> None:
    for token in tokens:
        answer.put_nowait(token)


async def test_an_answer_is_shown_as_it_was_piped(page: Page, application: Application) -> None:
    await open_chat(page, application)
    answer = await ask(page, application)
    text = ""
    for token in TOKENS[:-1]:
        say(answer, token)
        text += token
        await shows(page, text, "streaming")
    say(answer, "")
    await shows(page, text, "ready")
    await expect(page.locator("#end")).to_have_text("done")
    await until(lambda: application.ended == ["done"], "the producer to be done")


async def test_an_answer_outlives_a_reload_and_shows_in_a_second_tab(
    page: Page, application: Application
) -> None:
    await open_chat(page, application)
    answer = await ask(page, application)
    say(answer, *TOKENS[:3])
    await shows(page, "".join(TOKENS[:3]), "streaming")
    await page.reload()
    await shows(page, "".join(TOKENS[:3]), "streaming")
    second = await page.context.new_page()
    await open_chat(second, application)
    await shows(second, "".join(TOKENS[:3]), "streaming")
    say(answer, *TOKENS[3:])
    for tab in (page, second):
        await shows(tab, "".join(TOKENS), "ready")
        await expect(tab.locator("#end")).to_have_text("done")
    await page.reload()  # after the end
    await shows(page, "".join(TOKENS), "ready")
    await expect(page.locator("#end")).to_have_text("done")


async def test_a_stopped_answer(page: Page, application: Application) -> None:
    await open_chat(page, application)
    answer = await ask(page, application)
    say(answer, *TOKENS[:3])
    second = await page.context.new_page()
    await open_chat(second, application)
    for tab in (page, second):
        await shows(tab, "".join(TOKENS[:3]), "streaming")
    await page.locator("#stop").dispatch_event("click")
    await until(lambda: application.ended == ["cancelled"], "the cancel to reach the producer")
    for tab in (page, second):
        await shows(tab, "".join(TOKENS[:3]), "ready")
        await expect(tab.locator("#end")).to_have_text("stopped")
    await second.reload()
    await shows(second, "".join(TOKENS[:3]), "ready")
    await expect(second.locator("#end")).to_have_text("stopped")


async def test_a_failed_answer(page: Page, application: Application) -> None:
    await open_chat(page, application)
    answer = await ask(page, application)
    say(answer, *TOKENS[:3])
    await shows(page, "".join(TOKENS[:3]), "streaming")
    say(answer, None)
    for _ in range(2):  # the second time after a reload
        await shows(page, "".join(TOKENS[:3]), "error")
        await expect(page.locator("#error")).to_have_text("The answer failed.")
        await expect(page.locator("#end")).to_have_text("failed")
        await page.reload()


async def test_a_broker_that_restarts_in_the_middle(page: Page, app_script: bytes, tmp_path: Path) -> None:
    application = Application(app_script)
    await application.start()
    with BrokerProcess(
        cors_origins=application.url, data=tmp_path / "data", retry_min_ms=50, retry_max_ms=50
    ) as process:
        application.broker_url = process.url
        await open_chat(page, application)
        for chunk in (
            {"type": "start", "messageId": "message-1"},
            {"type": "text-start", "id": "text-1"},
            {"type": "text-delta", "id": "text-1", "delta": "before, "},
        ):
            process.publish("chat.c1.x", json.dumps(chunk))
        application.resume_at("c1", "chat.c1.x")
        await page.reload()
        await shows(page, "before, ", "streaming")
        process.terminate()
        process.start()
        process.publish("chat.c1.x", json.dumps({"type": "text-delta", "id": "text-1", "delta": "after"}))
        await shows(page, "before, after", "streaming")
        process.publish("chat.c1.x", json.dumps({"type": "finish"}), end="true")
        await shows(page, "before, after", "ready")
    await application.stop()


# Hooks


async def test_hooks(page: Page, application: Application) -> None:
    port = int(application.broker_url.rsplit(":", 1)[1])

    def publish(topic: str, data: str, query: str = "") -> None:
        answer = exchange(port, request("POST", f"/topics/{topic}{query}", body=data.encode()))
        assert answer.status == 201, answer

    await page.goto(f"{application.url}/?broker={application.broker_url}")
    await expect(page.locator("#state")).to_have_text("live")
    for number in range(5):
        publish("news", f"{number}")
    await expect(page.locator("#events")).to_have_text('["2","3","4"]')
    publish("sport", "", "?end=true&reason=rain")
    await expect(page.locator("#ends")).to_have_text('[{"topic":"sport","reason":"rain"}]')
    publish("answer", "Hello")
    await page.locator("#ask").dispatch_event("click")
    await expect(page.locator("#answer")).to_have_text('{"text":"Hello","status":"streaming","reason":null}')
    publish("answer", ", world")
    publish("answer", "", "?end=true")
    done = '{"text":"Hello, world","status":"done","reason":"closed"}'
    await expect(page.locator("#answer")).to_have_text(done)
