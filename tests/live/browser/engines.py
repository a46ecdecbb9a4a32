"""Firefox and WebKit, each with one page that understands as much of Playwright's `Page` as the tests' clients use."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.live.event_source import MODULES
from tests.support.child_process import ChildProcess
from tests.support.http import HOST
from tests.support.ports import free_port
from tests.support.waiting import WAIT_SECONDS, wait_for

SCRIPT = Path(__file__).with_name("engine.mjs")
PROGRAMS = {
    "firefox": "/usr/bin/firefox-esr",
    "webkit": "/usr/bin/WebKitWebDriver",
}
MINI_BROWSERS = ("/usr/lib/*/webkit2gtk-4.*/MiniBrowser", "/usr/libexec/webkit2gtk-4.*/MiniBrowser")
LINE_BYTES = 1 << 24


class Engine:
    """A page of an engine, driven through Node."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, engine: str, where: str, environment: dict[str, str]) -> Self:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(SCRIPT),
            str(MODULES),
            engine,
            where,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
            limit=LINE_BYTES,
        )
        page = cls(process)
        assert await page._result() == "ready"
        return page

    async def quit(self) -> None:
        """Close the browser."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(WAIT_SECONDS):
            await self._process.wait()

    async def goto(self, url: str) -> None:
        await self._command(goto=url)

    async def evaluate(self, script: str, arg: Any = None) -> Any:
        """What the function `script` returns for `arg`, or what its promise brings."""
        return await self._command(script=script, arg=arg)

    async def wait_for_function(self, script: str, *, arg: Any = None, timeout: float) -> None:
        """Wait until `script` returns something true, at most `timeout` ms."""
        async with asyncio.timeout(timeout / 1000):
            while not await self.evaluate(f"async arg => Boolean(await ({script})(arg))", arg):
                await asyncio.sleep(0.05)

    async def _command(self, **command: Any) -> Any:
        async with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            return await self._result()

    async def _result(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self._process.stdout.readline()
        result = json.loads(line)
        assert "error" not in result, result["error"]
        return result["value"]


@asynccontextmanager
async def started(engine: str) -> AsyncIterator[Engine]:
    """A page of `engine`; the browser is gone afterwards."""
    with ExitStack() as stack:
        if engine == "firefox":
            page = await Engine.start(engine, PROGRAMS[engine], {})
        else:
            environment = {"DISPLAY": display(stack), "MINI_BROWSER": str(mini_browser())}
            port = free_port()
            command = [PROGRAMS[engine], f"--port={port}"]
            driver = stack.enter_context(ChildProcess(command, env={**os.environ, **environment}))
            driver.wait_until_up(lambda: is_listening(port), WAIT_SECONDS)
            page = await Engine.start(engine, f"http://{HOST}:{port}", environment)
        yield page
        await page.quit()


def missing(engine: str) -> str | None:
    """The program of `engine` that this machine doesn't have, or None."""
    if not Path(PROGRAMS[engine]).exists():
        return PROGRAMS[engine]
    if engine == "webkit" and shutil.which("Xvfb") is None:
        return "Xvfb"
    return None


def mini_browser() -> Path:
    return next(path for pattern in MINI_BROWSERS for path in Path("/").glob(pattern[1:]))


def display(stack: ExitStack) -> str:
    """A screen of its own for as long as `stack` is open; its name."""
    command = ["Xvfb", "-displayfd", "1", "-nolisten", "tcp"]
    screen = stack.enter_context(ChildProcess(command, stderr=subprocess.DEVNULL))
    wait_for(lambda: screen.output.endswith("\n"), "the screen's number")
    return f":{screen.output.split()[-1]}"


def is_listening(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port)):
            return True
    except OSError:
        return False
