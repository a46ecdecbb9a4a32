"""The programs that tests with real clients and servers need: Chromium, Node and its packages, curl, the proxies.

`tests/run` installs them. Without its program a test is skipped with the reason; with CI=true it fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.live.clients import CLIENTS
from tests.live.control_client import STREAMS, ControlClient
from tests.live.event_source import MODULES
from tests.live.held_model import HeldModel
from tests.live.proxied import Front
from tests.live.proxies import PROXIES, ProxyProcess
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.child_process import enter_all
from tests.support.redis_servers import Server, redis
from tests.support.waiting import WAIT_SECONDS, wait_for

CHROMIUM_FLAGS = [
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=1000 * WAIT_SECONDS)


def leave_out(what: str, how: str) -> None:
    """Skip the test; with CI=true, fail it."""
    reason = f"{what} is missing: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started_chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, or the one that the environment's CHROMIUM names. Tests that use it run in the session's loop."""
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not os.access(path, os.X_OK):
        leave_out(path, "apt-get install chromium, or set CHROMIUM")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=CHROMIUM_FLAGS, timeout=1000 * WAIT_SECONDS
        )
        for name in ("new_context", "new_page"):
            setattr(browser, name, _patient(getattr(browser, name)))
        yield browser
        await browser.close()


def _patient(
    make: Callable[..., Awaitable[BrowserContext | Page]],
) -> Callable[..., Awaitable[BrowserContext | Page]]:
    """`make`, whose results wait as long as all tests do; there is no setting for a whole browser."""

    async def made(**options: Any) -> BrowserContext | Page:
        found = await make(**options)
        context = found.context if isinstance(found, Page) else found
        context.set_default_timeout(1000 * WAIT_SECONDS)
        return found

    return made


@pytest_asyncio.fixture(loop_scope="session")
async def chromium(started_chromium: Browser) -> AsyncIterator[Browser]:
    """Chromium, in which nothing is open and nothing stored; so it is left."""
    yield started_chromium
    for context in started_chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser) -> Page:
    """A tab."""
    return await chromium.new_page()


@pytest.fixture
def node() -> str:
    """The path of Node; its packages are installed."""
    path = shutil.which("node")
    if path is None:
        leave_out("node", "apt-get install nodejs npm, then tests/run")
    _check_modules()
    return str(path)


@pytest.fixture
def node_modules() -> Path:
    """Where the packages of package.json are."""
    _check_modules()
    return MODULES


def _check_modules() -> None:
    if not (MODULES / "eventsource" / "package.json").exists():
        leave_out("npm's eventsource and fetch-event-source", "tests/run installs them into .cache/node")


@pytest.fixture
def runs_in(client: str, request: pytest.FixtureRequest) -> Page | str | None:
    """What the test's `client` runs in: a page, or the path of Node."""
    needs = CLIENTS[client].needs
    return request.getfixturevalue(needs) if needs else None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def modules_model() -> AsyncIterator[HeldModel]:
    """A model for the example that a module's tests share."""
    async with HeldModel() as held_model:
        yield held_model


@pytest.fixture
def held_model(modules_model: HeldModel) -> HeldModel:
    """The same. Until the test lets them go on, answers stop after their beginning."""
    modules_model.hold()
    return modules_model


@pytest.fixture
def curl() -> str:
    """The path of curl."""
    path = shutil.which("curl")
    if path is None:
        leave_out("curl", "apt-get install curl")
    return str(path)


@pytest.fixture
def quick_broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    """A broker with a reconnect delay of 50 ms and a heartbeat after 0.1 s of silence."""
    return shared_brokers.get(heartbeat_seconds=0.1, retry_min_ms=50, retry_max_ms=50)


# For the tests that misuse a broker while a well-behaved client uses it


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[BrokerProcess]:
    """One broker for a module's tests, with its `SETTINGS`."""
    with BrokerProcess(**request.module.SETTINGS) as process:
        yield process


@pytest.fixture(scope="module")
def control_client(server: BrokerProcess) -> Iterator[ControlClient]:
    with ControlClient(server) as client:
        yield client


@pytest.fixture
def others_are_not_disturbed(control_client: ControlClient) -> Iterator[None]:
    """I9, after each test."""
    yield
    control_client.check()


@pytest.fixture
def no_client_is_left(server: BrokerProcess, others_are_not_disturbed: None) -> Iterator[None]:
    """After each test: no subscriber is left of the clients that have gone (I4)."""
    yield
    wait_for(lambda: server.metric("broker_subscribers") == STREAMS, "the subscribers to be gone")
    wait_for(lambda: server.metric("broker_lagging_subscribers") == 0, "no subscriber to lag")


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name)[-190:].strip("-")


@pytest.fixture(scope="session")
def proxies() -> dict[str, type[ProxyProcess]]:
    """All of them, none missing."""
    for name, kind in PROXIES.items():
        if kind.path() is None:
            leave_out(name, f"apt-get install {name}")
    return PROXIES


@pytest.fixture(params=list(PROXIES))
def proxy(request: pytest.FixtureRequest, proxies: dict[str, type[ProxyProcess]]) -> type[ProxyProcess]:
    """Each of the proxies in turn."""
    return proxies[request.param]


class Behind(Protocol):
    """Starts brokers with `settings`, and the proxy before them."""

    def __call__(self, brokers: int = 1, *, idle_seconds: int | None = None, **settings: object) -> Front: ...


@pytest.fixture
def behind(proxy: type[ProxyProcess], tmp_path: Path) -> Iterator[Behind]:
    """Brokers behind each of the proxies in turn; all are gone after the test."""
    with ExitStack() as stack:

        def start(brokers: int = 1, *, idle_seconds: int | None = None, **settings: object) -> Front:
            processes = enter_all(stack, [BrokerProcess(**settings) for _ in range(brokers)])
            urls = [process.url for process in processes]
            return Front(processes, stack.enter_context(proxy(urls, tmp_path, idle_seconds=idle_seconds)))

        yield start


class BehindEach(Protocol):
    """Starts brokers with `settings` for each proxy, and the proxy before them; by the proxies' names."""

    def __call__(self, brokers: int, **settings: object) -> dict[str, Front]: ...


@pytest.fixture
def behind_each(proxies: dict[str, type[ProxyProcess]], tmp_path: Path) -> Iterator[BehindEach]:
    """Brokers behind all proxies at the same time; on one Redis, those of each proxy are apart."""
    with ExitStack() as stack:

        def start(brokers: int, **settings: object) -> dict[str, Front]:
            fronts = {}
            for name, kind in proxies.items():
                folder = tmp_path / name
                folder.mkdir()
                given = {**settings, "redis_prefix": f"{name}:"}
                processes = enter_all(stack, [BrokerProcess(**given) for _ in range(brokers)])
                proxy = stack.enter_context(kind([process.url for process in processes], folder))
                fronts[name] = Front(processes, proxy)
            return fronts

        yield start


@pytest.fixture
def each_before(
    proxies: dict[str, type[ProxyProcess]], tmp_path: Path
) -> Iterator[Callable[[BrokerProcess, int], dict[str, ProxyProcess]]]:
    """Starts all proxies before one broker, each with a time-out of so many seconds of silence; by their names."""
    with ExitStack() as stack:

        def start(broker: BrokerProcess, idle_seconds: int) -> dict[str, ProxyProcess]:
            made = []
            for name, kind in proxies.items():
                folder = tmp_path / name
                folder.mkdir()
                made.append(kind([broker.url], folder, idle_seconds=idle_seconds))
            return dict(zip(proxies, enter_all(stack, made), strict=True))

        yield start


@pytest.fixture(scope="session")
def shared_fronts(
    proxies: dict[str, type[ProxyProcess]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Front]]:
    """All proxies before a broker that beats every second: HAProxy notices by it that a subscriber has left."""
    with BrokerProcess(heartbeat_seconds=1) as broker, ExitStack() as stack:
        made = [kind([broker.url], tmp_path_factory.mktemp(name)) for name, kind in proxies.items()]
        running = enter_all(stack, made)
        yield {name: Front([broker], process) for name, process in zip(proxies, running, strict=True)}


@pytest.fixture
def fronts(shared_fronts: dict[str, Front]) -> dict[str, Front]:
    """All proxies before one broker, shared with other tests; it has no topic and no subscriber."""
    next(iter(shared_fronts.values())).broker.empty()
    return shared_fronts


@pytest.fixture
def front(proxy: type[ProxyProcess], fronts: dict[str, Front]) -> Front:
    """Each of these proxies in turn."""
    return fronts[proxy.program]


@pytest.fixture
def store_arguments(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings that make several brokers one: they share a Redis."""
    with shared_redis(tmp_path) as settings:
        yield settings


@pytest.fixture(scope="module")
def module_store_arguments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The same for all tests of a module."""
    with shared_redis(tmp_path_factory.mktemp("store")) as settings:
        yield settings


@contextmanager
def shared_redis(folder: Path) -> Iterator[dict[str, Any]]:
    program = redis()
    if program is None:
        leave_out("redis-server", "apt-get install redis-server")
    with Server(folder / "redis", str(program)) as server:
        yield {"redis_url": server.url}
