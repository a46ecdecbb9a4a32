"""Chromium's EventSource and fetch, on a page of another origin than the broker's.

The page is on `localhost`, the broker on 127.0.0.1: another site, too, so that nothing is let through for being near.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.live.event_source import CLOSED, OPEN, Received, Source
from tests.support.broker_process import BrokerProcess
from tests.support.tokens import HMAC
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's

FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return {status: answer.status, replayed: answer.headers.get("Idempotency-Replayed"), text: await answer.text()};
    } catch (error) {
        return {error: error.name};
    }
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def origin() -> AsyncIterator[str]:
    """The origin of a page that isn't the broker's."""

    async def empty(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", empty)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://localhost:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, origin: str) -> Page:
    page = await chromium.new_page()
    await page.goto(origin)
    return page


@contextmanager
def broker_for(cors_origins: str) -> Iterator[BrokerProcess]:
    """One that lets the pages of `cors_origins` in, and logs the requests."""
    with BrokerProcess(
        cors_origins=cors_origins, access_log=True, retry_min_ms=50, retry_max_ms=50, drain_seconds=0
    ) as broker:
        yield broker


@pytest.mark.parametrize("credentials", [False, True])
async def test_a_named_origin_subscribes(page: Page, origin: str, credentials: bool) -> None:
    with broker_for(origin) as broker:
        source = await Source.follow(page, f"{broker.url}/topics/news", credentials=credentials)
        await source.wait_for_events(1)
        sent = broker.publish("news", "hello")
        assert (await source.wait_for_events(2))[1] == Received("message", "hello", sent, OPEN)


async def test_it_comes_back_with_its_cursor_and_without_a_preflight(page: Page, origin: str) -> None:
    with broker_for(origin) as broker:
        source = await Source.follow(page, f"{broker.url}/topics/news")
        await source.wait_for_events(1)
        broker.kill()
        broker.start()
        await source.wait_for(
            "received.some(({type, data}) => type == 'broker.gap' && data.includes('lost'))"
        )
        wait_for(lambda: '"GET /topics/news' in broker.output, "the access log's line")
        assert "OPTIONS" not in broker.output


async def test_star_subscribes_without_credentials_only(page: Page) -> None:
    with broker_for("*") as broker:
        source = await Source.follow(page, f"{broker.url}/topics/news")
        await source.wait_for_events(1)
        refused = await Source.follow(page, f"{broker.url}/topics/news", credentials=True)
        await refused.wait_for(f"source.readyState == {CLOSED}")
        assert await refused.events() == []


@pytest.mark.parametrize("allowed", ["", "https://other.example"])
async def test_a_stranger_sees_nothing(page: Page, allowed: str) -> None:
    with broker_for(allowed) as broker:
        source = await Source.follow(page, f"{broker.url}/topics/news")
        await source.wait_for(f"source.readyState == {CLOSED}")
        assert await source.events() == []
        for options in ({"method": "POST", "body": "x"}, {"method": "DELETE"}, {}):
            assert await _fetch(page, f"{broker.url}/topics/news", **options) == {"error": "TypeError"}
        listed = await _fetch(page, f"{broker.url}/topics", headers={"Accept": "application/json"})
        assert listed == {"error": "TypeError"}
        assert broker.metric("broker_published_events_total") == 0


async def test_fetch_with_preflight_and_exposed_headers(page: Page, origin: str) -> None:
    with broker_for(origin) as broker:
        url = f"{broker.url}/topics/news"
        headers = {"Idempotency-Key": "order-17", "Content-Type": "application/json"}
        first = await _fetch(page, url, method="POST", body="{}", headers=headers)
        again = await _fetch(page, url, method="POST", body="{}", headers=headers)
        assert (first["status"], first["replayed"]) == (201, None)
        assert (again["status"], again["replayed"], again["text"]) == (201, "true", first["text"])
        refused = await _fetch(page, url, method="POST", body="{}", headers={"Idempotency-Key": "ü"})
        assert (refused["status"], "invalid-parameter" in refused["text"]) == (400, True), (
            "an error can be read"
        )
        replay = """async ([url, id]) => {
            const stopped = new AbortController();
            const answer = await fetch(url, {headers: {"Last-Event-ID": id, "Cache-Control": "no-cache"}, signal: stopped.signal});
            let text = "";
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            while (!text.includes("data:")) text += (await reader.read()).value;
            stopped.abort();
            return text;
        }"""
        assert "data: {}" in await page.evaluate(replay, [url, "1-0"])
        assert (await _fetch(page, url, method="DELETE"))["status"] == 204


async def test_a_cookie_goes_with_credentials_and_with_a_named_origin(chromium: Browser, origin: str) -> None:
    """On the broker's own host, at another port: another origin of the same site, as pages of one domain are."""
    origin = origin.replace("localhost", "127.0.0.1")
    context = await chromium.new_context()
    token = HMAC.token(["news"], ["news"])
    await context.add_cookies([{"name": "broker_token", "value": token, "url": origin, "httpOnly": True}])
    page = await context.new_page()
    await page.goto(origin)
    for allowed in (origin, "*"):
        with BrokerProcess(cors_origins=allowed, jwt_secrets=[HMAC.material]) as broker:
            url = f"{broker.url}/topics/news"
            bare = await Source.follow(page, url)
            await bare.wait_for(f"source.readyState == {CLOSED}")
            source = await Source.follow(page, url, credentials=True)
            post = {"method": "POST", "body": "x", "credentials": "include"}
            if allowed == "*":
                await source.wait_for(f"source.readyState == {CLOSED}")
                assert await _fetch(page, url, **post) == {"error": "TypeError"}
                continue
            await source.wait_for_events(1)
            assert (await _fetch(page, url, **post))["status"] == 201
            assert (await source.wait_for_events(2))[1].data == "x"
            assert (await _fetch(page, url, method="POST", body="x"))["status"] == 401


async def _fetch(page: Page, url: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await page.evaluate(FETCH, [url, options])
    return answer
