"""`broker serve`: run one instance."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from aiohttp import web
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from broker.descriptors import raise_limit
from broker.errors import Unavailable
from broker.settings import BadSetting, Settings
from broker.web.app import create_app
from broker.web.keys import NODE
from broker.web.runner import Runner

BACKLOG = 65_535
SOMAXCONN_LEAST = 4096
ANSWER_SECONDS = 5.0  # for those who don't read their answers, once everything else is done
COLLECT_AFTER = 20_000  # new objects that refer to others; a request makes about 50

_log = logging.getLogger("broker")


class StartError(Exception):
    """Why the broker can't start, in one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting."""
    parser.epilog = (
        "Every setting is also read from the environment, as BROKER_ and its name; the flag is stronger."
    )
    for name, field in Settings.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=describe(field))


def describe(field: FieldInfo) -> str:
    """A setting's line in the help and in the README: what it is, and its default."""
    default = field.get_default()
    shown = (
        "none"
        if default in (None, (), {})
        else str(default).lower()
        if isinstance(default, bool)
        else default
    )
    return f"{field.description} (default: {shown})".replace("%", "%%")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a drain, 2 for a bad setting, 1 where the start fails."""
    try:
        settings = read_settings(args)
    except ValidationError as error:
        print(f"broker: {one_line(error)}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    raise_limit()
    relax_collector()
    try:
        uvloop.run(serve(settings))
    except BadSetting as error:
        print(f"broker: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"broker: {error}", file=sys.stderr)
        return 1
    return 0


def relax_collector() -> None:
    """Let the cycle collector look less often: each request leaves few cycles, and what it would walk is long-lived."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings that flags and environment give. Raises `ValidationError`."""
    given = {name: value for name in Settings.model_fields if (value := getattr(args, name)) is not None}
    return Settings(**given)


def one_line(error: ValidationError) -> str:
    """The first thing that is wrong, with the name of the setting."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{name}: {message} (given: {first['input']!r})" if name else message


async def serve(settings: Settings) -> None:
    """Listen, say so, and serve until a signal. Raises `StartError`, or `BadSetting`."""
    tls = _tls(settings)
    app = create_app(settings)
    runner = Runner(
        app,
        access_log=logging.getLogger("broker.access") if settings.access_log else None,
        shutdown_timeout=ANSWER_SECONDS,
    )
    try:
        await runner.setup()
    except Unavailable as error:
        raise StartError(f"redis_url: {error.detail}") from None
    try:
        site = web_site(runner, settings, tls)
        try:
            await site.start()
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.host} port {settings.port}: {error.strerror}"
            ) from None
        _warn_of_backlog()
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"broker: listening on {'https' if tls else 'http'}://{shown}:{port}, store: {app[NODE].store_name}",
            flush=True,
        )
        await _stop_at_signal(runner, app[NODE].drain)
    finally:
        if runner.server is not None:  # it hasn't ended in order
            await runner.cleanup()


def web_site(runner: Runner, settings: Settings, tls: ssl.SSLContext | None) -> web.TCPSite:
    """Where the broker listens; with a backlog that a reconnect storm doesn't overflow."""
    return web.TCPSite(runner, settings.host, settings.port, ssl_context=tls, backlog=BACKLOG)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"tls_cert, tls_key: can't use {settings.tls_cert} and {settings.tls_key}: {error}"
        ) from None
    return context


def _warn_of_backlog() -> None:
    path = Path("/proc/sys/net/core/somaxconn")
    if path.exists() and int(path.read_text()) < SOMAXCONN_LEAST:
        _log.warning(
            "net.core.somaxconn is under %d: reconnects after a restart will enter slowly; raise it",
            SOMAXCONN_LEAST,
        )


async def _stop_at_signal(runner: Runner, drain: Callable[[], Awaitable[None]]) -> None:
    """Wait for a signal, then drain and clean up; a second signal breaks that off, for a `cleanup` in a hurry."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    _log.info("%s: draining", (await signals.get()).name)
    ending = asyncio.ensure_future(_end_in_order(runner, drain))
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait((ending, again), return_when=asyncio.FIRST_COMPLETED)
    if ending.done():
        again.cancel()
        ending.result()
    else:
        _log.warning("%s again: ending at once", again.result().name)
        runner.hurry()
        ending.cancel()
        await asyncio.wait([ending])


async def _end_in_order(runner: Runner, drain: Callable[[], Awaitable[None]]) -> None:
    await drain()
    await runner.cleanup()
