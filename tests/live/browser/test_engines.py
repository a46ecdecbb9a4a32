"""Firefox and WebKit against a real broker: their own EventSource, and the browser client. Chromium has tests of its own.

The page is of another origin than the broker.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from tests.live.browser.engines import Engine, missing, started
from tests.live.browser.following import Following
from tests.live.conftest import leave_out
from tests.live.event_source import CLOSED, OPEN, Source
from tests.live.proxies import Nginx
from tests.support.broker_process import BrokerProcess
from tests.support.http import close, exchange, request
from tests.support.tcp_proxy import Listening
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

PAGE = """<!doctype html><title>page</title><script type="module">
    import * as client from "{url}/client.js";
    window.client = client;
</script>"""
REFUSALS = 10


class Client(ABC):
    """A client of a page that follows topic `news`."""

    def __init__(self, engine: Engine) -> None:
        self.page = cast("Page", engine)  # it is as much of one as needed

    @abstractmethod
    async def open(self, url: str, *, since: str = "", token: str = "", credentials: bool = False) -> None:
        """Begin, and wait until it is open."""

    @abstractmethod
    async def data(self) -> list[str]:
        """The data of all events so far, without the broker's own."""

    @abstractmethod
    async def wait_until_over(self) -> None:
        """Wait until it has given up, for good or bad."""

    async def wait_for_data(self, *expected: str) -> None:
        """Wait for as many events; theirs must be these data."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(data := await self.data()) < len(expected):
                await asyncio.sleep(0.05)
        assert data == list(expected)


class Native(Client):
    """The engine's EventSource."""

    async def open(self, url: str, *, since: str = "", token: str = "", credentials: bool = False) -> None:
        query = f"since={since or 'latest'}" + (f"&access_token={token}" if token else "")
        self._source = await Source.follow(self.page, f"{url}/topics/news?{query}", credentials=credentials)
        await self._source.wait_for(f"source.readyState == {OPEN}")

    async def data(self) -> list[str]:
        return [str(event.data) for event in await self._source.events() if event.type == "message"]

    async def wait_until_over(self) -> None:
        await self._source.wait_for(f"source.readyState == {CLOSED}")


class Ours(Client):
    """`follow`."""

    async def open(self, url: str, *, since: str = "", token: str = "", credentials: bool = False) -> None:
        options: dict[str, Any] = {"since": since} if since else {}
        options |= {"token": token} if token else {}
        options["credentials"] = "include" if credentials else "same-origin"
        self.following = await Following.open(self.page, "news", url=url, **options)
        await self.following.wait_for("['live', 'ended'].includes(following.state.state)")

    async def data(self) -> list[str]:
        return await self.following.data()

    async def wait_until_over(self) -> None:
        await self.following.wait_for("['ended', 'failed'].includes(following.state.state)")


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=["firefox", "webkit"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    absent = missing(request.param)
    if absent is not None:
        leave_out(absent, "apt-get install firefox-esr webkit2gtk-driver xvfb")
    async with started(request.param) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="session", params=[Native, Ours], ids=["EventSource", "follow"])
async def client(engine: Engine, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    client: Client = request.param(engine)
    yield client
    await client.page.evaluate(
        "() => { for (const {source, following} of window.followed ?? []) (source ?? following).close(); }"
    )


class Application:
    """Serves a page that loads the client of `broker_url`; its visitor gets `cookie` as the broker's token."""

    def __init__(self) -> None:
        self.broker_url = ""
        self.cookie = ""
        app = web.Application()
        app.router.add_get("/", self._page)
        self._server = TestServer(app)

    async def start(self) -> str:
        """Returns its origin."""
        await self._server.start_server()
        return f"http://127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        await self._server.close()

    async def _page(self, _request: web.Request) -> web.Response:
        response = web.Response(text=PAGE.format(url=self.broker_url), content_type="text/html")
        if self.cookie:
            response.set_cookie("broker_token", self.cookie, httponly=True)
        return response


@asynccontextmanager
async def visited(engine: Engine, *, cookie: str = "", **settings: object) -> AsyncIterator[BrokerProcess]:
    """A broker with `settings`, and the page that uses it."""
    async with AsyncExitStack() as stack:
        application = Application()
        application.cookie = cookie
        origin = await application.start()
        stack.push_async_callback(application.stop)
        broker = stack.enter_context(
            BrokerProcess(cors_origins=origin, retry_min_ms=50, retry_max_ms=50, drain_seconds=0, **settings)
        )
        application.broker_url = broker.url
        await engine.goto(origin)
        await engine.wait_for_function("() => window.client", timeout=1000 * WAIT_SECONDS)
        yield broker


async def test_silence_then_events_then_the_end(engine: Engine, client: Client) -> None:
    """It is open on a silent topic; after the end, it doesn't come back: a 204 tells EventSource so."""
    async with visited(engine) as broker:
        await client.open(broker.url)
        broker.publish("news", "Grüße\n🎈")
        await client.wait_for_data("Grüße\n🎈")
        broker.publish("news", "bye", end="true")
        await client.wait_until_over()
        assert await client.data() == ["Grüße\n🎈", "bye"]


async def test_replay_and_restart(engine: Engine, client: Client, tmp_path: Path) -> None:
    async with visited(engine, data=tmp_path / "data") as broker:
        if isinstance(client, Native):
            await engine.goto(f"{broker.url}/healthz")  # see below
        broker.publish("news", "one")
        broker.publish("news", "two")
        await client.open(broker.url, since="earliest")
        await client.wait_for_data("one", "two")
        broker.terminate()
        broker.start()
        broker.publish("news", "three")
        await client.wait_for_data("one", "two", "three")


@pytest.mark.parametrize("engine", ["firefox"], indirect=True)
async def test_firefox_gives_up_on_another_origin_that_is_down(engine: Engine) -> None:
    """Its EventSource comes back to its own origin, as above. Fails when Firefox has been mended."""
    async with visited(engine) as broker:
        client = Native(engine)
        await client.open(broker.url)
        broker.kill()
        await client.wait_until_over()


class Refusing(Listening):
    """Answers the first requests with a short `retry:` and the end, then with an event."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n")
            writer.write(b"Access-Control-Allow-Origin: *\r\n\r\nretry: 50\n:\n\n")
            if self.requests > REFUSALS:
                data = '{"topic":"news","id":"1-0","event":null,"time":"","data":"at last"}'
                writer.write(f"data: {data}\nid: 1-0\n\n".encode())
                await reader.read()  # until the client leaves
        finally:
            await close(writer)


async def test_retry(engine: Engine, client: Client) -> None:
    async with visited(engine), Refusing() as server:
        await client.open(server.url)
        async with asyncio.timeout(WAIT_SECONDS):
            while not (data := await client.data()):
                await asyncio.sleep(0.05)
        assert "at last" in data[0]
        assert server.requests == REFUSALS + 1


async def test_a_token_that_expires(engine: Engine, client: Client) -> None:
    def token(life: float) -> str:
        return HMAC.token(["**"], ["news"], exp=time.time() + life)

    def publish(data: str) -> None:
        bearer = f"Authorization: Bearer {token(3600)}"
        answer = exchange(broker.port, request("POST", "/topics/news", bearer, body=data.encode()))
        assert answer.status == 201, answer

    async with visited(engine, jwt_secrets=[HMAC.material]) as broker:
        if isinstance(client, Native):
            await client.open(broker.url, token=token(9))
            publish("one")
            await client.wait_until_over()  # it comes back with the old token, and is refused
            assert await client.data() == ["one"]
            return
        tokens = [token(9), token(3600)]
        await client.page.evaluate("tokens => { window.newToken = () => tokens.shift(); }", tokens)
        await client.open(broker.url, token="ask")
        publish("one")
        await client.page.wait_for_function(
            "() => followed.at(-1).calls.filter(({state}) => state == 'live').length > 1",
            timeout=1000 * WAIT_SECONDS,
        )
        publish("two")
        await client.wait_for_data("one", "two")


async def test_credentials_of_another_origin(engine: Engine, client: Client) -> None:
    cookie = HMAC.token(["news"], ["news"])
    async with visited(engine, cookie=cookie, jwt_secrets=[HMAC.material]) as broker:
        await client.open(broker.url, credentials=True)
        bearer = f"Authorization: Bearer {cookie}"
        assert exchange(broker.port, request("POST", "/topics/news", bearer, body=b"x")).status == 201
        await client.wait_for_data("x")


async def test_chunked_and_compressed_by_a_proxy(engine: Engine, client: Client, tmp_path: Path) -> None:
    gzip = {"gzip off;": "gzip on; gzip_types text/event-stream application/json; gzip_proxied any;"}
    async with visited(engine) as broker:
        with Nginx([broker.url], tmp_path, changes=gzip) as nginx:
            await client.open(nginx.url)
            broker.publish("news", "one")
            await client.wait_for_data("one")
            broker.publish("news", "two")
            await client.wait_for_data("one", "two")
