"""The README and the guides, by copy and paste: every command, with another port than theirs, and every program.

The blocks are read from the pages. Each page runs from its top in a copy of the checkout, in the terminals that it names.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from broker.client import publish
from tests.support.broker_process import BrokerProcess
from tests.support.dockerfile import WHEELS
from tests.support.http import exchange, request
from tests.support.markdown import Block, blocks
from tests.support.ports import free_port
from tests.support.redis_servers import Server, redis, valkey
from tests.support.run_folder import RUN_FOLDER
from tests.support.terminal import FAILED, Terminal
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, until, wait_for

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDES = ROOT / "deploy" / "guides"
IN_CHROMIUMS_LOOP = pytest.mark.asyncio(loop_scope="session")
MAX_README_LINES = 250
MAX_PROGRAM_LINES = 40

NOT_RUN = {
    "docker compose ": "needs Docker",
    ".venv/bin/python -m tests.bench.": "takes hours",
    "tests/run": "runs this test",
}
"""Commands by their beginning, and why no test runs them."""


@dataclass(frozen=True)
class Shown:
    """What a reader sees after a paste.

    Attributes:
        here: a regular expression for the output of the block's own terminal.
        stays: the command runs on, until Ctrl-C.
        fails: a command ends with an error, and the page says so.
        there: by number, what other terminals show.
    """

    here: str = ""
    stays: bool = False
    fails: bool = False
    there: Mapping[int, str] = field(default_factory=dict)


LISTENS = Shown(r"listening on http://127\.0\.0\.1:\d+", stays=True)
ONE_ID = r'\{"topic": "[\w.-]+", "id": "\d+-\d+"\}'
MANY_IDS = r'"published": {}, "first_id": "\d+-\d+", "last_id": "\d+-\d+"'

SHOWN: Mapping[str, Mapping[str, Shown]] = {
    "README.md": {
        ".venv/bin/broker serve": LISTENS,
        "curl -N $BROKER_URL/topics/news": Shown("event: broker.open", stays=True),
        "-d 'hello'": Shown(
            ONE_ID, there={2: r"data: hello\nid: \d+-\d+\n\nevent: alert\ndata: with a type\n"}
        ),
        "news?since=earliest": Shown("data: hello\n(?s:.*)data: with a type\n", stays=True),
        "Idempotency-Key: order-17": Shown(
            rf"{MANY_IDS.format(2)}\}}\s*({ONE_ID})\s*\1", there={2: r'data: one\n(?s:.*)data: \{"n":2\}\n'}
        ),
        "broker subscribe news": Shown(r"hello\n(?s:.*)paid\n", stays=True),
        "broker publish news": Shown(r"\d+-\d+\n", there={2: "from the command line\n"}),
        "python tour.py": Shown(r"\d+-\d+ from Python", stays=True),
        "examples/run.py tokens": Shown(r"tokens: http://127\.0\.0\.1:\d+", stays=True),
        "$OPENAI_BASE_URL/chat/completions": Shown(r'"closed": true'),
        "tests/run": Shown(),
    },
    "browser.md": {
        ".venv/bin/broker serve": LISTENS,
        "topics/weather?end=true": Shown(r'"closed": true'),
    },
    "protocol.md": {
        ".venv/bin/broker serve": LISTENS,
        "export BROKER_URL": Shown(),
        "to both, or to neither": Shown(
            rf'{ONE_ID}\s*{ONE_ID}\s*\{{"ids": \{{"news": "\d+-\d+", "weather": "\d+-\d+"\}}'
        ),
        "application/x-ndjson": Shown(MANY_IDS.format(2) + r'\}\s*\{"published": 2'),
        "answer-42": Shown(
            r'"closed": true(?s:.*)data: The answer\n(?s:.*)data:  is 42\.\n(?s:.*)event: broker\.end\n'
        ),
        "answer-43": Shown(
            r'"closed": true(?s:.*)data: The ans\n(?s:.*)data: \{"topic":"answer-43","reason":"failed"\}\n'
        ),
        "end_data=%5BDONE%5D": Shown(
            r'"code": "incomplete", "published": 2\}(?s:.*)"published": 2, "closed": true', fails=True
        ),
        "control=none": Shown(r"retry: \d+\n:\ndata: one\n(?s:.*)data: \[DONE\]\nid: \d+-\d+\n\n"),
        "envelope=json": Shown(r'data: \{"topic":"weather",', stays=True),
        "events?last=2": Shown(
            r'\{"events":\[\{"topic":"(?s:.*)"more":false,"gap":null,"closed":false\}(?s:.*)"topic":"weather"'
        ),
        "python poll.py": Shown("hello\n", stays=True),
        "openapi.json": Shown(r'\{"openapi":"3\.1\.0"'),
        "curl -X DELETE": Shown(r'\{"topic": "news", "subscribers": \d+, (?s:.*)\{"topics": \['),
        "bad..name": Shown('"code": "invalid-topic"', fails=True),
    },
    "token-streams.md": {
        "examples/run.py tokens": Shown(r"tokens: http://127\.0\.0\.1:\d+", stays=True),
        ".venv/bin/broker serve": LISTENS,
        "answers.1?end=true": Shown(r'"published": 4, "closed": true'),
        "answers.1/cancel": Shown(),
        "python answer.py": Shown(r"The answer is 42\.\n"),
        "flask --app ask run": Shown(r"Running on http://127\.0\.0\.1:\d+", stays=True),
        "5000/ask": Shown(r'data:  asked:\n(?s:.*)"reason":"closed"'),
        "python chain.py": Shown("You asked: “Explain the sky to a child.”"),
    },
    "python.md": {
        ".venv/bin/broker serve": LISTENS,
        "export BROKER_URL": Shown(),
        "python publish.py": Shown(
            r"\d+-\d+\n\{'orders\.7': '\d+-\d+', 'shop': '\d+-\d+'\}\nstatus paid\nNone shipped\nbroker\.end \{"
        ),
        "python watch.py": Shown(
            r"orders\.7: shipped\norders\.7: ended as done\njobs\.1: all done\njobs\.1: ended as finished\n"
        ),
        "python answer_blocking.py": Shown(r"The answer is 42\.\n"),
        "broker events news": Shown(
            r'\d+-\d+\n\{"topic": "news", (?s:.*)"data": "hello"\}\n +EVENTS(?s:.*)  answers\.3\n'
        ),
    },
    "recipes.md": {
        ".venv/bin/broker serve": LISTENS,
        "export BROKER_URL": Shown(),
        "users.7.bell": Shown(ONE_ID),
        "shop.orders": Shown(r'"published": 2\}'),
        "jobs.42": Shown(r'"closed": true'),
        "rooms.1": Shown(rf"{ONE_ID}\s*{ONE_ID}\s*{ONE_ID}"),
        "topics/changes": Shown(ONE_ID),
        "runs.1": Shown(
            r'"published": 2, "closed": true(?s:.*)data: \{"type":"RUN_STARTED"\}\nid: \S+\n\n'
            r'event: end\ndata: \{"type":"RUN_FINISHED"\}\nid: \S+\n'
        ),
    },
    "access.md": {
        "broker serve --cors-origins": LISTENS,
        "broker token --explain": Shown(r'\d+-\d+\n\{"topics": \[(?s:.*)ACCEPTED. The bearer may:\n'),
        "flask --app app run": Shown(r"Running on http://127\.0\.0\.1:\d+", stays=True),
        "admin/disconnect": Shown(),
    },
    "many-instances.md": {
        "--workers 2 --data broker-data": Shown(r"listening on http://\S+, store: .*workers: 2", stays=True),
        "--redis-url redis://": Shown(r"listening on http://\S+, store: redis", stays=True),
    },
    "operating.md": {"openssl req": Shown()},
    "doctor.md": {
        ".venv/bin/broker serve": LISTENS,
        ".venv/bin/broker doctor": Shown(r"ok +buffering +The first byte came(?s:.*)0 errors, 1 warning"),
    },
    "performance.md": {
        ".venv/bin/broker serve": LISTENS,
        ".venv/bin/broker bench": Shown(r"delivered\s+500 of 500"),
        "tests.bench.peers": Shown(),
    },
}
"""By page, and by a piece of the block: every block of shell commands is here."""

PAGES = [README, *sorted(page for page in GUIDES.glob("*.md") if page.name in SHOWN)]


# The pages


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_every_guide_is_linked_once_from_the_readme() -> None:
    linked = re.findall(r"\]\(deploy/guides/([\w-]+\.md)\)", README.read_text())
    assert sorted(linked) == sorted(page.name for page in GUIDES.glob("*.md"))


@pytest.mark.parametrize(
    "page",
    [README, *(ROOT / "deploy").glob("*.md"), *sorted(GUIDES.glob("*.md"))],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if heading else ()
        assert not heading or heading in [_anchor(text) for text in headings], target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_block_of_commands_is_in_the_table() -> None:
    for page in (README, *GUIDES.glob("*.md")):
        for block in blocks(page):
            if block.language == "sh":
                shown_after(page, block)


def shown_after(page: Path, block: Block) -> Shown:
    found = [shown for piece, shown in SHOWN[page.name].items() if piece in block.code]
    assert len(found) == 1, f"{page.name}: {len(found)} entries for {block.code}"
    return found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_is_json(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.code)


# Their commands and programs


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of the checkout, installed as the README says, without the network if `tests/run` has fetched the wheels.

    It also sees the packages of the tests' environment, so that pip finds the packages of the extras installed.
    """
    installed = installed_checkout()
    with tempfile.TemporaryDirectory() as folder:  # under a short name: it holds unix sockets
        root = Path(folder)
        shutil.copytree(installed, root, symlinks=True, dirs_exist_ok=True)
        for script in (root / ".venv" / "bin").iterdir():
            if not script.is_symlink():
                script.write_bytes(script.read_bytes().replace(bytes(installed), bytes(root)))
        yield root


def installed_checkout() -> Path:
    """The one that all processes of the run copy: made by the first, for pip takes its time."""
    shared = Path(os.environ[RUN_FOLDER])
    root, done = shared / "checkout", shared / "checkout.done"
    with (shared / "checkout.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait for the one that installs
        if not done.exists():
            root.mkdir()
            install(root)
            done.touch()
    return root


def install(root: Path) -> None:
    """Follow the README's installation in a new folder."""
    for name in ("broker", "deploy"):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    (root / "bin").mkdir()
    python3 = root / "bin" / "python3"
    python3.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 "$@"\n')
    python3.chmod(0o755)
    (root / ".curlrc").write_text("fail-with-body\n")
    command = next(blocks(README)).code.splitlines()[1]
    with Terminal(root, environment(root)) as terminal:
        output = terminal.paste(f"{command}\n")
        assert not FAILED.search(output), output
        terminal.paste(".venv/bin/broker serve --help >/dev/null\n")  # compiles what all will run
    (site,) = (root / ".venv" / "lib").glob("python*/site-packages")
    (site / "extras.pth").write_text(f"{sysconfig.get_path('purelib')}\n")


def environment(root: Path) -> dict[str, str]:
    """The variables of a newcomer's terminal. pip installs from the wheels, and curl fails if the broker answers an error."""
    path = [str(root / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS)} if WHEELS.exists() else {}
    return {
        "PATH": ":".join(path),
        "HOME": str(root),
        "LC_ALL": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",
        **wheels,
    }


class Reader:
    """Follows one page from its top, in terminals and a browser; an async context manager by `reading`.

    Attributes:
        ports: those of this run, by those of the page.
    """

    def __init__(self, root: Path, page: Path, chromium: Browser, **variables: str) -> None:
        self.ports = {"8080": free_port(), "5000": free_port(), "8000": free_port(), "6379": 0}
        self.terminals: dict[int, Terminal] = {}
        self.stack = ExitStack()
        self._root = root
        self._page = page
        self._chromium = chromium
        # hatchling is in the tests' environment; pip would install it again for each build
        self._environment = environment(root) | {"PIP_NO_BUILD_ISOLATION": "0"} | variables
        self._unused = set(SHOWN[page.name])
        self._consoles: list[tuple[Block, Page, list[str]]] = []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.ports['8080']}"

    async def read(self) -> None:
        """Do all that the page says."""
        for block in blocks(self._page):
            match block.language:
                case "sh":
                    await asyncio.to_thread(self._paste, block)
                case "python":
                    assert block.file, f"where does this go? {block.code}"
                    (self._root / block.file).write_text(self.adapted(block.code))
                case "js":
                    await self._run_in_console(block)
                case language:
                    assert language in ("json", "jsx", ""), language
        for block, page, lines in self._consoles:
            await until(partial(bool, lines), f"something in the console after {block.code}")
            assert not [line for line in lines if line.startswith("error: ")], lines
            await page.close()  # before its broker ends, which the console would report

    def adapted(self, text: str) -> str:
        """`text` with the ports of this run, as a reader replaces them, and with smaller loads."""
        for theirs, ours in self.ports.items():
            text = re.sub(rf"(?<=:){theirs}\b", str(ours), text)
        text = text.replace("broker serve", f"broker serve --port {self.ports['8080']}")
        text = re.sub(r"--app (\w+) run", rf"--app \1 run --port {self.ports['5000']}", text)
        text = text.replace("examples/run.py", f"examples/run.py --port {self.ports['8000']}")
        return text.replace("--subscribers 1000", "--subscribers 50 --duration 1")

    def _paste(self, block: Block) -> None:
        lines = [line for line in block.code.splitlines() if not line.startswith(tuple(NOT_RUN))]
        if all(line.startswith("#") for line in lines):
            return
        if block.terminal not in self.terminals:
            terminal = Terminal(self._root, self._environment)
            self.terminals[block.terminal] = self.stack.enter_context(terminal)
        terminal = self.terminals[block.terminal]
        if block.interrupts:
            terminal.interrupt()
        shown = shown_after(self._page, block)
        text = self.adapted("\n".join(lines)) + "\n"
        seen = {number: len(other.output) for number, other in self.terminals.items()}
        output = terminal.paste(text, shown.here if shown.stays else "")
        assert shown.fails == bool(FAILED.search(output)), output
        assert re.search(shown.here, output), f"{shown.here!r} isn't in: {output}"
        for number, expected in shown.there.items():
            shows = partial(self.terminals[number].shows, expected, seen[number])
            wait_for(shows, f"{expected!r} in terminal {number}")

    async def _run_in_console(self, block: Block) -> None:
        """Run a block in the console of the broker's page; it has to print something before the page's end."""
        page = await self._chromium.new_page()
        await page.goto(self.url)
        lines: list[str] = []

        page.on("console", lambda message: lines.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: lines.append(f"error: {error}"))
        await page.evaluate(f"() => {{ (async () => {{ {self.adapted(block.code)} }})(); }}")
        self._consoles.append((block, page, lines))


@asynccontextmanager
async def reading(root: Path, page: Path, chromium: Browser, **variables: str) -> AsyncIterator[Reader]:
    reader = Reader(root, page, chromium, **variables)
    try:
        yield reader
    finally:
        await asyncio.to_thread(reader.stack.close)


@pytest.mark.timeout(600)
@IN_CHROMIUMS_LOOP
@pytest.mark.parametrize(
    "page",
    [
        "protocol.md",
        "browser.md",
        "recipes.md",
        "token-streams.md",
        "python.md",
        "operating.md",
        "doctor.md",
        "performance.md",
    ],
)
async def test_guide(page: str, checkout: Path, chromium: Browser, openai: dict[str, str]) -> None:
    async with reading(checkout, GUIDES / page, chromium, **openai) as reader:
        await reader.read()


@pytest.fixture
def openai() -> Iterator[dict[str, str]]:
    """The variables that name OpenAI's service. The example's model stands in for it."""
    port = free_port()
    code = f"from aiohttp import web; import model; web.run_app(model.create_app(500), host='127.0.0.1', port={port})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT / "deploy" / "examples",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "none"}
    process.terminate()
    process.wait(20)


@pytest.mark.timeout(600)
@IN_CHROMIUMS_LOOP
async def test_readme(checkout: Path, chromium: Browser, openai: dict[str, str]) -> None:
    async with reading(checkout, README, chromium, **openai) as reader:
        await reader.read()


@pytest.mark.timeout(600)
@IN_CHROMIUMS_LOOP
async def test_many_instances(checkout: Path, chromium: Browser) -> None:
    program = redis() or valkey()
    assert program is not None
    with Server(checkout / "server", program, tcp=True) as server:
        async with reading(checkout, GUIDES / "many-instances.md", chromium) as reader:
            reader.ports["6379"] = server.port
            await reader.read()


# Each user's own topics


def program(first_line: str) -> str:
    """A program of the guide on access."""
    (found,) = (block.code for block in blocks(GUIDES / "access.md") if block.code.startswith(first_line))
    return found


def test_the_programs_are_short() -> None:
    for name in ("# app.py", "# views.py"):
        assert len([line for line in program(name).splitlines() if line]) < MAX_PROGRAM_LINES


async def log_in(chromium: Browser, origin: str, user: int) -> Page:
    page = await (await chromium.new_context()).new_page()
    async with page.expect_response(lambda answer: "/topics/" in answer.url):
        await page.goto(f"{origin}/login/{user}")
    return page


@pytest.mark.timeout(600)
@IN_CHROMIUMS_LOOP
async def test_each_user_sees_their_own_topics(checkout: Path, chromium: Browser) -> None:
    async with reading(checkout, GUIDES / "access.md", chromium) as reader:
        await reader.read()
        origin = f"http://127.0.0.1:{reader.ports['5000']}"
        secrets = (checkout / "broker-secrets.json").read_text()
        everywhere = reader.terminals[2].paste("echo $BROKER_TOKEN\n").split()[0]
        stranger = await (await chromium.new_context()).request.get(f"{origin}/stream")
        assert stranger.status == 401
        seven, eight = await log_in(chromium, origin, 7), await log_in(chromium, origin, 8)
        for user in (7, 8):
            await asyncio.to_thread(
                publish, reader.url, f"users.{user}.news", f"for {user}", token=everywhere
            )
        await expect(seven.locator("li")).to_have_text(["for 7"])
        await expect(eight.locator("li")).to_have_text(["for 8"])
        url = (await (await seven.request.get(f"{origin}/stream")).json())["url"]
        asked = {"Accept": "application/json"}
        assert (await seven.request.get(url, headers=asked)).status == 200
        other = await seven.request.get(url.replace("users.7.", "users.8."), headers=asked)
        assert other.status == 403
        assert json.loads(secrets)[0] not in reader.terminals[1].output


DJANGO = """
import json, sys, types
import django
from django.conf import settings
apps = ["django.contrib.auth", "django.contrib.contenttypes"]
settings.configure(INSTALLED_APPS=apps, BROKER="http://127.0.0.1:8080", BROKER_SECRET=json.loads(sys.argv[1])[0])
django.setup()
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory
from views import stream
request = RequestFactory().get("/stream")
request.user = AnonymousUser()
assert stream(request).status_code == 401
request.user = types.SimpleNamespace(pk=7, is_authenticated=True)
print(json.loads(stream(request).content)["url"])
"""


def test_djangos_view(tmp_path: Path) -> None:
    (tmp_path / "views.py").write_text(program("# views.py"))
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, json.dumps([HMAC.material])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    with BrokerProcess(jwt_secrets=[HMAC.material]) as broker:
        path = done.stdout.strip().removeprefix("http://127.0.0.1:8080")
        asked = "Accept: application/json"
        assert exchange(broker.port, request("GET", path, asked)).status == 200
        assert exchange(broker.port, request("GET", path.replace("users.7", "users.8"), asked)).status == 403
