"""`broker serve`: runs the broker in this process or, with `--workers` or `--data`, in several processes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Any

import uvloop
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from broker.cli.common import setting_error_text, silence_stdout
from broker.process.activation import settings_of, take_sockets
from broker.process.collector import relax_collector
from broker.process.listeners import Listeners
from broker.process.setup import Endpoint, StartError, set_up_process
from broker.process.stores import check_store
from broker.settings import BadSetting, Settings
from broker.settings.environment import environment_warnings
from broker.settings.table import GROUPS
from broker.settings.values import COMMA_SEPARATED
from broker.version import installed_version

MIN_SOMAXCONN = 4096

_logger = logging.getLogger("broker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting, in groups."""
    parser.epilog = "Each setting can also be set in the environment, as BROKER_ and its name; the option takes precedence."
    titles = {first: title for title, first in GROUPS.items()}
    group: argparse._ActionsContainer = parser
    for name, field in Settings.model_fields.items():
        if name in titles:
            group = parser.add_argument_group(titles[name])
        option = f"--{name.replace('_', '-')}"
        if COMMA_SEPARATED in field.metadata:
            group.add_argument(option, metavar="VALUE", action=_Joined, help=describe(field))
        elif field.annotation is bool:
            group.add_argument(option, metavar="VALUE", nargs="?", const="true", help=describe(field))
        else:
            group.add_argument(option, metavar="VALUE", help=describe(field))


class _Joined(argparse.Action):
    """Joins the values of a comma-separated option that is given several times."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        _option: str | None = None,
    ) -> None:
        former = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if former is None else f"{former},{values}")


def describe(field: FieldInfo) -> str:
    """The description of a setting and its default, for the help and the documentation."""
    default = field.get_default()
    shown = (
        "none"
        if default in (None, (), {}, "")
        else ", ".join(default)
        if isinstance(default, tuple)
        else str(default).lower()
        if isinstance(default, bool)
        else default
    )
    return f"{field.description} (default: {shown})".replace("%", "%%")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    A service manager's sockets replace the settings that say where to listen.

    Returns:
        0 after a drain, 1 if the start fails, 2 for an invalid setting.
    """
    try:
        inherited = take_sockets(os.environ)
        settings = read_settings(args, settings_of(inherited) if inherited else {})
        check_store(settings)
    except StartError as error:
        return _fail(str(error), 1)
    except ValidationError as error:
        return _fail(setting_error_text(error), 2)
    except BadSetting as error:
        return _fail(str(error), 2)
    has_workers = settings.workers > 1 or settings.data is not None
    set_up_process(settings.log_level, settings.log_format, log_pid=has_workers)
    warn_about_backlog()
    for warning in (*environment_warnings(os.environ, Settings.model_fields), *settings.warnings()):
        _logger.warning("%s", warning)
    try:
        uvloop.run(_supervisor(settings, inherited) if has_workers else _instance(settings, inherited))
    except StartError as error:
        return _fail(str(error), 1)
    return 0


def _fail(reason: str, status: int) -> int:
    print(f"broker: {reason}", file=sys.stderr)
    return status


def _supervisor(settings: Settings, inherited: Sequence[socket]) -> Coroutine[object, object, None]:
    # imported here, because it needs nothing of what its workers load
    from broker.process.supervisor import run

    return run(
        settings,
        inherited,
        lambda endpoint: _print_start(endpoint, settings, f", workers: {settings.workers}"),
    )


async def _instance(settings: Settings, inherited: Sequence[socket]) -> None:
    from broker.process.instance import Instance

    relax_collector()
    with closing(Listeners(settings, inherited=inherited)) as listeners:
        instance = Instance(settings, listeners.sockets())
        endpoint = await instance.start()
        try:
            _print_start(endpoint, settings)
        except StartError:
            await instance.stop()
            raise
        await instance.run()


def _print_start(endpoint: Endpoint, settings: Settings, more: str = "") -> None:
    """Print the line that says that the broker listens, and log its versions and settings.

    Raises `StartError` if standard output can't be written to.
    """
    try:
        print(f"broker: listening on {', '.join(endpoint.urls)}, store: {endpoint.store}{more}", flush=True)
    except OSError as error:
        silence_stdout()
        raise StartError(f"can't print the start line: {error.strerror}") from None
    facts = {
        "version": installed_version() or "unknown",
        "urls": endpoint.urls,
        "store": endpoint.store,
        "settings": settings.changed(),
    }
    _logger.info("started", extra=facts)


def read_settings(args: argparse.Namespace, fixed: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The settings from the command line and the environment; those in `fixed` win. Raises `ValidationError`."""
    given = {name: value for name in Settings.model_fields if (value := getattr(args, name)) is not None}
    return Settings(**{**given, **fixed})


def warn_about_backlog() -> None:
    """Warn if the kernel's listen queue is too short for many simultaneous reconnects."""
    path = Path("/proc/sys/net/core/somaxconn")
    if path.exists() and int(path.read_text()) < MIN_SOMAXCONN:
        _logger.warning(
            "net.core.somaxconn is under %d: clients will reconnect slowly after a restart; raise it",
            MIN_SOMAXCONN,
        )
