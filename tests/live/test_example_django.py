"""The notification bell of Django in Chromium: a saved notification reaches its user at once, and no other."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.live.examples import EXAMPLES, Example
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's


class Bell(Example):
    """The example, with its database in `data`."""

    def __init__(self, data: Path) -> None:
        self.data, self.broker_port = data, free_port()
        super().__init__("django", "--broker-port", str(self.broker_port), "--data", str(data))

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a process of Django's, as a job of the project would."""
        variables = {
            "BROKER_URL": f"http://127.0.0.1:{self.broker_port}",
            "BROKER_SECRET": SECRET,
            "DATA": str(self.data),
        }
        return subprocess.run(
            [sys.executable, "manage.py", "shell", "-v0", "-c", f"{IMPORTS}\n{code}"],
            cwd=EXAMPLES / "django",
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def notify_ada(self, text: str) -> str:
        """Save a notification; returns the log."""
        done = self.run(f"Notification.objects.create(user=User.objects.get(username='ada'), text={text!r})")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def published(self, user: int) -> list[str]:
        """The texts of the events of a user's topic."""
        token = HMAC.token(subscribe=["**"])
        answer = exchange(
            self.broker_port,
            request("GET", f"/topics/users.{user}.bell/events", f"Authorization: Bearer {token}"),
        )
        return [json.loads(event["data"])["text"] for event in answer.json()["events"]]


IMPORTS = """
from django.contrib.auth.models import User
from django.db import transaction
from bell.models import Notification
"""


@pytest.fixture(scope="module")
def bell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bell]:
    with Bell(tmp_path_factory.mktemp("bell") / "data") as bell:
        yield bell


@pytest.fixture(autouse=True)
def nothing_is_saved(bell: Bell) -> None:
    """Other tests' notifications are gone from the database."""
    with closing(sqlite3.connect(bell.data / "bell.sqlite3")) as database, database:
        database.execute("DELETE FROM bell_notification")


async def log_in(chromium: Browser, bell: Bell, name: str) -> Page:
    page = await (await chromium.new_context()).new_page()
    await page.goto(bell.url)
    await page.fill("[name=username]", name)
    await page.fill("[name=password]", name)
    await page.click("form button")
    await expect(page.locator("h1")).to_have_text(f"Hello, {name}")
    return page


async def notify(page: Page, user: str, text: str) -> None:
    await page.select_option("[name=user]", user)
    await page.fill("[name=text]", text)
    await page.click("text=Send")


async def test_it_rings_in_each_window_of_its_user(chromium: Browser, bell: Bell) -> None:
    ada, grace = await log_in(chromium, bell, "ada"), await log_in(chromium, bell, "grace")
    tab = await grace.context.new_page()
    await tab.goto(bell.url)
    for number, text in enumerate(["Lunch?", "<b onclick=alert(1)>Now!</b>"], 1):
        await notify(ada, "grace", text)
        for page in (grace, tab):
            await expect(page.locator("#unread")).to_have_text(str(number))
    await grace.click("#bell summary")
    expected = ["ada: <b onclick=alert(1)>Now!</b>", "ada: Lunch?"]
    await expect(grace.locator("#bell li")).to_have_text(expected)
    await expect(grace.locator("#unread")).to_be_empty()
    await expect(ada.locator("#unread")).to_be_empty()
    await grace.reload()
    await expect(grace.locator("#unread")).to_be_empty()
    assert await grace.locator("#bell li").all_text_contents() == expected


async def test_history_comes_from_the_database_and_the_rest_from_the_topic(
    chromium: Browser, bell: Bell
) -> None:
    """A notification that is saved while the page loads is shown once."""
    page = await log_in(chromium, bell, "ada")
    await notify(page, "ada", "one")
    await expect(page.locator("#bell li")).to_have_text(["ada: one"])

    async def hold_back(route: Route) -> None:
        await asyncio.to_thread(bell.notify_ada, "two")
        await route.continue_()

    await page.route("**/client.js", hold_back)
    await page.reload()
    await expect(page.locator("#bell li")).to_have_text(["two", "ada: one"])
    bell.notify_ada("three")
    await expect(page.locator("#bell li")).to_have_text(["three", "two", "ada: one"])
    bell.run("Notification.objects.filter(text='three').delete()")
    await page.unroute("**/client.js")


async def test_what_is_rolled_back_is_not_published(bell: Bell) -> None:
    done = bell.run("""
ada = User.objects.get(username='ada')
try:
    with transaction.atomic():
        Notification.objects.create(user=ada, text='never')
        raise KeyError
except KeyError:
    Notification.objects.create(user=ada, text='but this')
""")
    assert done.returncode == 0, done.stderr
    assert bell.published(1)[-1] == "but this"
    assert "never" not in bell.published(1)


async def test_without_the_broker_a_notification_is_saved_all_the_same(chromium: Browser, bell: Bell) -> None:
    page = await log_in(chromium, bell, "ada")
    bell.broker_port, port = free_port(), bell.broker_port
    assert "unreachable" in bell.notify_ada("saved")
    bell.broker_port = port
    await page.reload()
    await expect(page.locator("#bell li", has_text="saved")).to_have_count(1)


async def test_a_token_is_for_ones_own_topic_and_anonymous_visitors_get_none(
    chromium: Browser, bell: Bell
) -> None:
    stranger = await chromium.new_context()
    assert (await stranger.request.get(f"{bell.url}/token")).status == 401
    await (await stranger.new_page()).goto(bell.url)
    assert "broker" not in await stranger.pages[0].content()
    page = await log_in(chromium, bell, "ada")
    token = await (await page.request.get(f"{bell.url}/token")).text()
    for user, status in ((1, 200), (2, 403)):
        asked = request("GET", f"/topics/users.{user}.bell/events", f"Authorization: Bearer {token}")
        assert exchange(bell.broker_port, asked).status == status
    forged = request(
        "POST", "/topics/users.1.bell", f"Authorization: Bearer {token}", body=b'{"id": 1, "text": "x"}'
    )
    assert exchange(bell.broker_port, forged).status == 403
