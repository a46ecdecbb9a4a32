"""The README's chapter on each user's own topics, by copy and paste: with Flask in Chromium, and Django's view."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from broker.client import publish
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.tokens import HMAC
from tests.support.waiting import wait_for

README = Path(__file__).parents[2] / "README.md"
MAX_LINES = 40
SECRETS = json.dumps([HMAC.material])
EVERYWHERE = HMAC.token(["**"], ["**"])


def block(first_line: str) -> str:
    """The README's block of code that begins so."""
    found = re.search(
        rf"^```python\n({re.escape(first_line)}\n.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, first_line
    return found[1]


def test_the_chapter_is_short() -> None:
    assert len([line for line in block("# app.py").splitlines() if line]) < MAX_LINES
    assert len(block("# views.py").splitlines()) < MAX_LINES


@pytest.fixture
def app(tmp_path: Path) -> Iterator[tuple[str, BrokerProcess]]:
    """The Flask application's address, and its broker."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "BROKER_JWT_SECRETS": SECRETS}
    with BrokerProcess(jwt_secrets=[HMAC.material], cors_origins=origin) as broker:
        code = block("# app.py").replace("http://127.0.0.1:8080", broker.url)
        (tmp_path / "app.py").write_text(code)
        flask = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: _answers(port), "Flask to answer", 20)
            yield origin, broker
        finally:
            flask.send_signal(signal.SIGINT)
            flask.wait(20)


def _answers(port: int) -> bool:
    try:
        return exchange(port, request("GET", "/")).status == 200
    except ConnectionError:
        return False


async def log_in(chromium: Browser, origin: str, user: int) -> Page:
    page = await (await chromium.new_context()).new_page()
    async with page.expect_response(lambda answer: "/topics/" in answer.url):
        await page.goto(f"{origin}/login/{user}")
    return page


async def test_each_user_sees_their_own_topics(chromium: Browser, app: tuple[str, BrokerProcess]) -> None:
    origin, broker = app
    seven, eight = await log_in(chromium, origin, 7), await log_in(chromium, origin, 8)
    for user in (7, 8):
        publish(broker.url, f"users.{user}.news", f"for {user}", token=EVERYWHERE)
    await expect(seven.locator("li")).to_have_text(["for 7"])
    await expect(eight.locator("li")).to_have_text(["for 8"])
    url = (await (await seven.request.get(f"{origin}/stream")).json())["url"]
    other = await seven.request.get(
        url.replace("users.7.", "users.8."), headers={"Accept": "application/json"}
    )
    assert other.status == 403


DJANGO = """
import json, sys, types
from django.conf import settings
settings.configure(BROKER="http://127.0.0.1:8080", BROKER_SECRET=json.loads(sys.argv[1])[0])
from django.test import RequestFactory
from views import stream
request = RequestFactory().get("/stream")
request.user = types.SimpleNamespace(pk=7)
print(json.loads(stream(request).content)["url"])
"""


def test_djangos_view(tmp_path: Path) -> None:
    (tmp_path / "views.py").write_text(block("# views.py"))
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, SECRETS], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with BrokerProcess(jwt_secrets=[HMAC.material]) as broker:
        path = done.stdout.strip().removeprefix("http://127.0.0.1:8080")
        asked = "Accept: application/json"
        assert exchange(broker.port, request("GET", path, asked)).status == 200
        assert exchange(broker.port, request("GET", path.replace("users.7", "users.8"), asked)).status == 403
