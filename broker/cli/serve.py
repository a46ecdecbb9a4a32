"""`broker serve`: run the broker, in this process or, with `--workers` or `--data`, in several."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path

import uvloop
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from broker.process.setup import StartError, relax_collector, set_up
from broker.process.stores import check_store
from broker.settings import BadSetting, Settings

SOMAXCONN_LEAST = 4096

_log = logging.getLogger("broker")


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
        check_store(settings)
    except ValidationError as error:
        return _refuse(one_line(error), 2)
    except BadSetting as error:
        return _refuse(str(error), 2)
    has_workers = settings.workers > 1 or settings.data is not None
    set_up(settings.log_level, names_itself=has_workers)
    warn_of_backlog()
    try:
        uvloop.run(_supervisor(settings) if has_workers else _instance(settings))
    except StartError as error:
        return _refuse(str(error), 1)
    return 0


def _refuse(why: str, status: int) -> int:
    print(f"broker: {why}", file=sys.stderr)
    return status


def _supervisor(settings: Settings) -> Coroutine[object, object, None]:
    """It is imported apart from the instance: it needs nothing of what its workers load."""
    from broker.process.supervisor import run

    return run(
        settings,
        lambda url, store: print(
            f"broker: listening on {url}, store: {store}, workers: {settings.workers}", flush=True
        ),
    )


def _instance(settings: Settings) -> Coroutine[object, object, None]:
    from broker.process.instance import serve

    relax_collector()
    return serve(
        settings,
        lambda where: print(f"broker: listening on {where.url}, store: {where.store}", flush=True),
    )


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings that flags and environment give. Raises `ValidationError`."""
    given = {name: value for name in Settings.model_fields if (value := getattr(args, name)) is not None}
    return Settings(**given)


def one_line(error: ValidationError) -> str:
    """The first thing that is wrong, with the name of the setting."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    message = str(first["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    given = "" if name == "jwt_secrets" else f" (given: {first['input']!r})"
    return f"{name}: {message}{given}"


def warn_of_backlog() -> None:
    """Say it where the kernel would take few of the clients that come back at once."""
    path = Path("/proc/sys/net/core/somaxconn")
    if path.exists() and int(path.read_text()) < SOMAXCONN_LEAST:
        _log.warning(
            "net.core.somaxconn is under %d: reconnects after a restart will enter slowly; raise it",
            SOMAXCONN_LEAST,
        )
