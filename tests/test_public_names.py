"""The public names of the package, and which modules they load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import broker
import broker.client
import broker.client.client
import broker.process.app
import broker.settings
from broker import BlockingClient, Client, Settings, create_app
from tests.support.waiting import WAIT_SECONDS


def test_public_names_are_those_of_their_modules() -> None:
    assert Client is broker.client.Client is broker.client.client.Client
    assert BlockingClient is broker.client.BlockingClient
    assert Settings is broker.settings.Settings
    assert create_app is broker.process.app.create_app


@pytest.mark.parametrize("module", ["broker", "broker.client"])
def test_other_names_are_attribute_errors(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        _ = sys.modules[module].Nothing


def modules_of(program: str) -> set[str]:
    """The modules that `program` loads, run by a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    return set(done.stdout.split())


def test_the_client_does_not_load_the_server() -> None:
    loaded = modules_of("from broker import Client")
    assert not {"broker.web", "broker.fanout.hub", "pydantic", "redis"} & loaded


LATE = {"cryptography", "jwt", "redis", "rich"}
STARTED = """
import asyncio
from broker.process.app import create_app
from broker.settings import Settings

async def start():
    app = create_app(Settings({settings}))
    app.freeze()
    await app.startup()
    await app.cleanup()

asyncio.run(start())
"""


def test_a_broker_without_keys_loads_only_what_it_needs() -> None:
    """Each of these takes a tenth of its start."""
    loaded = modules_of("import broker.cli.serve, broker.process.instance")
    assert "broker.process.app" in loaded
    assert not LATE & (loaded | modules_of(STARTED.format(settings="")))


def test_a_broker_with_keys_loads_them_before_the_first_token_waits() -> None:
    loaded = modules_of(STARTED.format(settings=f"jwt_secrets=[{'s' * 64!r}]"))
    assert {"cryptography", "jwt"} <= loaded


def test_the_client_needs_nothing_that_a_system_may_lack() -> None:
    """Windows has no uvloop and none of these modules; rich and hdrhistogram are optional everywhere."""
    missing = ("uvloop", "resource", "fcntl", "termios", "rich", "hdrh")
    hide = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    names = "BlockingClient, Stream, Subscription, publish"
    program = f"{hide}\nfrom broker import Client; from broker.client import {names}"
    assert "broker.client.client" in modules_of(program)


def test_the_blocking_side_needs_only_the_standard_library() -> None:
    loaded = modules_of("from broker import BlockingClient; from broker.client import publish")
    assert not {"aiohttp", "asyncio", "pydantic", "uvloop"} & loaded
