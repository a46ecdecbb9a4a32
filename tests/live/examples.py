"""The examples of `deploy/examples`, each as its one command."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Self

from playwright.async_api import BrowserContext, Route

import broker.web.browser_client
from tests.live.event_source import MODULES
from tests.support.child_process import ChildProcess
from tests.support.ports import free_port
from tests.support.process_tree import descendants
from tests.support.tokens import SECRET
from tests.support.waiting import WAIT_SECONDS

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
CLIENT = Path(broker.web.browser_client.__file__).parent
START_SECONDS = WAIT_SECONDS
CDN = "https://cdn.jsdelivr.net/npm/"


class Example:
    """The command of an example; a context manager.

    Args:
        name: as the command takes it.
        flags: further arguments.
        examples: the folder of the examples.
        model: the base URL of another model than the local one.
        variables: of its environment, besides BROKER_SECRET, which is `SECRET`.

    Attributes:
        url: where its page is.
        command: as it is started.
    """

    def __init__(
        self, name: str, *flags: str, examples: Path = EXAMPLES, model: str = "", **variables: str
    ) -> None:
        self.name = name
        if model:
            variables |= {"OPENAI_BASE_URL": model, "OPENAI_API_KEY": "none"}
        self._environment = {**environment(), "BROKER_SECRET": SECRET, **variables}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, str(examples / "run.py"), name, "--port", str(self.port), *flags]

    def __enter__(self) -> Self:
        self._process = ChildProcess(self.command, env=self._environment)
        self._process.wait_until_up(lambda: f"{self.name}: http" in self.output, START_SECONDS)
        return self

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._process.output

    def broker_pids(self) -> list[int]:
        """The processes of the broker that it started."""
        return [pid for pid in self.process_ids() if b"\0broker\0serve\0" in _command_line(pid)]

    def process_ids(self) -> list[int]:
        """The processes that it started."""
        return list(descendants(self._process.pid))

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(START_SECONDS)

    def __exit__(self, *_: object) -> None:
        if self._process.running:
            self.interrupt()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has just ended
        return b""


def environment() -> dict[str, str]:
    """Without what would change an example."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BROKER_"))}


async def serve_libraries(context: BrowserContext) -> None:
    """Answer requests for the CDN from npm's packages, which have the same files. Their hashes must be right."""

    async def fulfil(route: Route) -> None:
        name, _, rest = route.request.url.removeprefix(CDN).partition("@")
        file = MODULES / name / rest.partition("/")[2]
        await route.fulfill(
            path=file, headers={"Access-Control-Allow-Origin": "*"}, content_type="text/javascript"
        )

    await context.route(f"{CDN}**", fulfil)


async def withhold_libraries(context: BrowserContext) -> None:
    """Pages can't reach the CDN."""
    await context.route(f"{CDN}**", lambda route: route.abort())
