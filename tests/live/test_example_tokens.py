"""The chat of `deploy/examples/tokens` in Chromium: whatever happens on the way, the answer is complete, and no token twice."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.live.examples import (
    EXAMPLES,
    START_SECONDS,
    Example,
    environment,
    serve_libraries,
    withhold_libraries,
)
from tests.live.held_model import BEGINNING, HeldModel
from tests.support.broker_process import BrokerProcess
from tests.support.child_process import ChildProcess
from tests.support.cutting_proxy import CuttingProxy
from tests.support.ports import free_port
from tests.support.process_tree import is_running
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, until, wait_for

pytestmark = pytest.mark.asyncio(loop_scope="session")  # Chromium's
QUESTION = "Why “this”, & why now?"
WITHIN_MS = 1000 * WAIT_SECONDS

sys.path.append(str(EXAMPLES))
import model  # noqa: E402


def answer_to(*questions: str) -> str:
    """What the local model answers to the last of these questions."""
    return "".join(model.answer_to([{"role": "user", "content": question} for question in questions]))


TEXT = answer_to(QUESTION)
ADMIN = HMAC.token(admin=True)


@contextmanager
def chatting(
    tmp_path: Path, *flags: str, persists: bool = False, model: str = ""
) -> Iterator[tuple[Example, BrokerProcess]]:
    """The chat, and the broker that it uses, with short reconnect delays."""
    example = Example("tokens", *flags, model=model)
    settings: dict[str, object] = {
        "retry_min_ms": 50,
        "retry_max_ms": 100,
        "cors_origins": example.url,
        "jwt_secrets": [HMAC.material],
    }
    if persists:
        settings |= {"data": tmp_path / "data", "drain_seconds": 0.2}
    with BrokerProcess(**settings) as broker:
        example.command += ["--broker", broker.url]
        with example:
            yield example, broker


@pytest.fixture(scope="module")
def quick_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Example, BrokerProcess]]:
    """A chat with a quick model, for tests that leave it running; the users of each are new."""
    with chatting(tmp_path_factory.mktemp("chat"), "--tokens-per-second", "1000") as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> BrowserContext:
    """A browser without the libraries, so that pages show answers as plain text."""
    context = await chromium.new_context()
    await withhold_libraries(context)
    return context


async def open_chat(context: BrowserContext, example: Example) -> Page:
    page = await context.new_page()
    await page.goto(example.url)
    return page


async def ask(page: Page, question: str = QUESTION) -> None:
    await page.fill("#question", question)
    await page.click("#ask button")


async def asked(context: BrowserContext, example: Example) -> Page:
    """A page that has asked, and shows the beginning of the answer."""
    page = await open_chat(context, example)
    await ask(page)
    await has_tokens(page, BEGINNING)
    return page


async def has_tokens(page: Page, count: int) -> None:
    length = len("".join(model.answer_to([{"role": "user", "content": QUESTION}])[:count]))
    await page.wait_for_function(
        "length => document.querySelector('.answer')?.textContent.length >= length",
        arg=length,
        timeout=WITHIN_MS,
    )


async def is_complete(*pages: Page, questions: tuple[str, ...] = (QUESTION,)) -> None:
    """Wait until all of these questions are answered; their texts must be whole, in order."""
    for page in pages:
        await expect(page.locator("article[data-state=closed]")).to_have_count(len(questions))
        assert await page.locator(".question").all_text_contents() == list(questions)
        texts = await page.locator(".answer").all_text_contents()
        assert texts == [answer_to(*questions[: number + 1]) for number in range(len(questions))]


async def test_reload_in_mid_answer(context: BrowserContext, held_model: HeldModel, tmp_path: Path) -> None:
    with chatting(tmp_path, model=held_model.url) as (example, _):
        page = await asked(context, example)
        for count in (40, 80):
            held_model.allow(count)
            await page.reload()
            await has_tokens(page, count)
        held_model.allow()
        await is_complete(page)
        await page.reload()
        await is_complete(page)


async def test_several_questions_and_their_history(
    context: BrowserContext, quick_chat: tuple[Example, BrokerProcess]
) -> None:
    """The model gets the earlier questions: it answers each one otherwise. Another tab shows a new question by itself."""
    example, _ = quick_chat
    page, tab = await open_chat(context, example), await open_chat(context, example)
    questions = (QUESTION, "And then?", "May others read it?", "Again?")
    for number in range(len(questions)):
        await ask(page, questions[number])
        await is_complete(page, tab, questions=questions[: number + 1])
    await page.reload()
    await is_complete(page, questions=questions)


async def test_two_tabs_show_the_same_answer_on_one_connection(
    context: BrowserContext, tmp_path: Path
) -> None:
    with chatting(tmp_path) as (example, broker):
        page = await asked(context, example)
        tab = await open_chat(context, example)
        await is_complete(page, tab)
        await until(lambda: broker.metric("broker_subscribers", ADMIN) == 1, "one connection to be left")


async def test_stop(context: BrowserContext, held_model: HeldModel, tmp_path: Path) -> None:
    with chatting(tmp_path, model=held_model.url) as (example, broker):
        page = await asked(context, example)
        tab = await open_chat(context, example)
        await has_tokens(tab, BEGINNING)
        await page.click(".stop")
        for shown in (page, tab):
            await expect(shown.locator("article[data-state=cancelled] .end")).to_have_text("Stopped.")
        await tab.reload()
        await expect(tab.locator("article[data-state=cancelled] .end")).to_have_text("Stopped.")
        await expect(tab.locator(".stop")).to_be_hidden()
        texts = [await shown.locator(".answer").text_content() for shown in (page, tab)]
        assert texts[0] == texts[1]
        assert texts[0] is not None
        assert TEXT.startswith(texts[0])
        assert len(texts[0]) < len(TEXT)
        await until(lambda: broker.metric("broker_streamed_bodies", ADMIN) == 0, "the body to have ended")
        assert "Traceback" not in example.output


async def test_a_stop_that_meets_no_producer_yet_is_repeated(
    context: BrowserContext, held_model: HeldModel, tmp_path: Path
) -> None:
    with chatting(tmp_path, model=held_model.url) as (example, _):
        page = await asked(context, example)
        stops: list[str] = []

        async def meet_nobody_at_first(route: Route) -> None:
            stops.append(route.request.url)
            await (route.fulfill(status=202) if len(stops) == 1 else route.continue_())

        await page.route("**/stop", meet_nobody_at_first)
        await page.click(".stop")
        await expect(page.locator("article[data-state=cancelled] .end")).to_have_text("Stopped.")
        assert len(stops) > 1


async def test_network_off_and_on(context: BrowserContext, held_model: HeldModel) -> None:
    """Chromium's own switch lets a stream go on that is open already, so this is cut besides."""
    with (
        BrokerProcess(
            retry_min_ms=50, retry_max_ms=100, cors_origins="*", jwt_secrets=[HMAC.material]
        ) as broker,
        CuttingProxy(broker.port) as line,
        Example("tokens", "--broker", line.url, model=held_model.url) as example,
    ):
        page = await asked(context, example)
        devtools = await context.new_cdp_session(page)
        await devtools.send("Network.enable")
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await devtools.send("Network.emulateNetworkConditions", {"offline": True, **nothing})
        line.cut_all()
        await expect(page.locator("#state")).to_have_text("Connecting again …")
        shown = await page.locator(".answer").text_content()
        published = broker.metric("broker_published_events_total", ADMIN)
        held_model.allow(BEGINNING + 40)
        await until(
            lambda: broker.metric("broker_published_events_total", ADMIN) > published + 30, "more tokens"
        )
        assert await page.locator(".answer").text_content() == shown
        assert shown != TEXT
        await devtools.send("Network.emulateNetworkConditions", {"offline": False, **nothing})
        held_model.allow()
        await is_complete(page)
        await expect(page.locator("#state")).to_be_empty()


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_broker_restarted_in_between(
    context: BrowserContext, held_model: HeldModel, tmp_path: Path, how: str
) -> None:
    with chatting(tmp_path, persists=True, model=held_model.url) as (example, broker):
        page = await asked(context, example)
        tab = await open_chat(context, example)
        await has_tokens(tab, BEGINNING)
        held_model.allow(2 * BEGINNING)  # some of them come as the broker ends
        if how == "killed":
            broker.kill()
        else:
            assert await asyncio.to_thread(broker.terminate) == 0
        held_model.allow(3 * BEGINNING)
        await asyncio.to_thread(broker.start)
        held_model.allow()
        await is_complete(page, tab)
        await is_complete(await open_chat(context, example))


# Users


async def test_a_user_reads_only_their_own_topics(
    context: BrowserContext, chromium: Browser, quick_chat: tuple[Example, BrokerProcess]
) -> None:
    example, broker = quick_chat
    page = await asked(context, example)
    await is_complete(page)
    stranger = await chromium.new_context()
    other = await open_chat(stranger, example)
    await expect(other.locator("#empty")).to_be_visible()
    assert await other.locator("article").count() == 0
    user = await page.locator("meta[name=user]").get_attribute("content")
    topic = f"{broker.url}/topics/chats.{user}.questions"
    own = await (await page.request.get(f"{example.url}/token")).text()
    foreign = await (await other.request.get(f"{example.url}/token")).text()
    for token, status in ((own, 200), (foreign, 403), ("", 401)):
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        assert (await stranger.request.get(topic, headers=headers)).status == status
    publish = await stranger.request.post(topic, data="forged", headers={"Authorization": f"Bearer {own}"})
    assert publish.status == 403


# What a model says

EVIL = """<img src=x onerror="window.harmed='img'"> <svg onload="window.harmed='svg'"></svg> \
<script>window.harmed='script'</script> [link](javascript:window.harmed='link') <a href="javascript:alert(1)">raw</a> \
<iframe srcdoc="<script>parent.harmed='frame'</script>"></iframe> <form action=/stop><input name=x></form> \
<p id=ask style="position:fixed" onclick="window.harmed='p'">text</p> ![pixel](https://evil.example/?stolen) **bold** [good](https://example.com)"""


async def test_what_a_model_says_does_no_harm(
    chromium: Browser, quick_chat: tuple[Example, BrokerProcess]
) -> None:
    """The local model repeats the question."""
    context = await chromium.new_context()
    await serve_libraries(context)
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    example, broker = quick_chat
    page = await open_chat(context, example)
    await ask(page, EVIL)
    await expect(page.locator("article[data-state=closed] .answer strong").first).to_have_text("bold")
    answer = page.locator(".answer")
    assert await answer.locator("img, script, iframe, form, input, style").count() == 0
    assert await answer.evaluate("""element => [...element.querySelectorAll("*")].flatMap(({attributes}) =>
        [...attributes].map(({name}) => name)).filter(name => name.startsWith("on") || ["style", "id"].includes(name))""") == []  # fmt: skip
    links = await answer.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert [link for link in links if link] == ["https://example.com"]
    for link in await answer.get_by_text(re.compile("link|raw|text")).all():
        await link.click(force=True)
    assert await page.evaluate("window.harmed") is None
    own = (example.url, broker.url, "https://cdn.jsdelivr.net/", "data:")
    assert [url for url in requests if not url.startswith(own)] == []


async def test_markdown_is_shown_as_such(
    chromium: Browser, quick_chat: tuple[Example, BrokerProcess]
) -> None:
    """With the libraries of npm, which match the hashes in the page."""
    context = await chromium.new_context()
    await serve_libraries(context)
    example, _ = quick_chat
    page = await open_chat(context, example)
    await ask(page)
    await expect(page.locator("article[data-state=closed] h3")).to_have_text("Where this answer is")
    await expect(page.locator(".answer ol > li")).to_have_count(3)
    await expect(page.locator(".answer tbody tr")).to_have_count(4)


async def test_the_browser_refuses_to_make_html_of_text_in_any_other_way(
    chromium: Browser, quick_chat: tuple[Example, BrokerProcess]
) -> None:
    context = await chromium.new_context()
    await serve_libraries(context)
    example, _ = quick_chat
    page = await open_chat(context, example)
    made = "() => { try { document.body.innerHTML = '<b>'; return 'made'; } catch (error) { return error.name; } }"
    assert await page.evaluate(made) == "TypeError"


# The command


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """For the one command, so that it doesn't meet another broker."""
    return ["--broker-port", str(free_port()), "--data", str(tmp_path / "data")]


async def test_one_command_runs_all_of_it_and_one_ctrl_c_ends_it(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example("tokens", *flags, "--tokens-per-second", "2000") as example:
        page = await asked(context, example)
        await is_complete(page)
        assert re.search(r"tokens: http://127\.0\.0\.1:\d+ \(the broker: http://", example.output)
        started = example.process_ids()
        assert len(started) == 2
        assert example.interrupt() == 0
        assert not [pid for pid in started if is_running(pid)]
    assert "Traceback" not in example.output


async def test_a_missing_model_is_shown_on_the_page(context: BrowserContext, flags: list[str]) -> None:
    """Also after a reload. Its address is only in the server's log."""
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    with Example("tokens", *flags, model=nowhere) as example:
        page = await open_chat(context, example)
        await ask(page)
        for _ in range(2):
            failed = page.locator("article[data-state=failed]")
            await expect(failed.locator(".end")).to_have_text("The model failed.")
            await expect(failed.locator(".question")).to_have_text(QUESTION)
            await page.reload()


async def test_its_public_names_come_from_the_environment(chromium: Browser, flags: list[str]) -> None:
    context = await chromium.new_context()
    with Example("tokens", *flags, ALLOWED_HOSTS="chat.example, other.example") as example:
        for host, status in (("chat.example", 200), ("other.example:8000", 200), ("evil.example", 403)):
            answer = await context.request.get(example.url, headers={"Host": host})
            assert answer.status == status, host


async def test_ctrl_c_in_mid_answer_ends_all_of_it(context: BrowserContext, flags: list[str]) -> None:
    with Example("tokens", *flags) as example:
        await asked(context, example)
        started = example.process_ids()
        assert example.interrupt() == 0
        assert not [pid for pid in started if is_running(pid)]
    assert "Traceback" not in example.output


async def test_one_command_starts_a_broker_again_that_was_killed(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example("tokens", *flags) as example:
        page = await asked(context, example)
        (killed,) = example.broker_pids()
        os.kill(killed, signal.SIGKILL)
        await is_complete(page)
        await until(lambda: set(example.broker_pids()) - {killed}, "another broker")
        assert example.interrupt() == 0


async def test_a_visitor_keeps_their_chat_over_a_restart_of_everything(
    context: BrowserContext, flags: list[str]
) -> None:
    del flags[:2]
    example = Example("tokens", *flags, "--broker-port", "0", "--tokens-per-second", "1000", BROKER_SECRET="")
    with example:
        await is_complete(await asked(context, example))
    with example:
        await is_complete(await open_chat(context, example))


async def test_a_page_by_the_name_localhost_may_read_the_broker(
    context: BrowserContext, flags: list[str]
) -> None:
    with Example("tokens", *flags, "--tokens-per-second", "2000") as example:
        example.url = f"http://localhost:{example.port}"
        await is_complete(await asked(context, example))


async def test_a_broker_that_cannot_start_ends_the_command(flags: list[str]) -> None:
    with Example("tokens", *flags) as example:
        other = [*example.command[:3], "--port", str(free_port()), *flags[:2], "--data", flags[3] + "-other"]
        with ChildProcess(other, env=environment()) as ended:
            assert ended.wait(START_SECONDS) == 1
        wait_for(lambda: "the broker did not start" in ended.output, "the line in the output")
        assert "Traceback" not in ended.output
