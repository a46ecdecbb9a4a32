"""What `broker` itself offers, and what that costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import broker
import broker.client
import broker.client.client
import broker.process.app
import broker.settings
from broker import Client, Settings, create_app


def test_public_names_are_those_of_their_modules() -> None:
    assert Client is broker.client.Client is broker.client.client.Client
    assert Settings is broker.settings.Settings
    assert create_app is broker.process.app.create_app


@pytest.mark.parametrize("module", ["broker", "broker.client"])
def test_other_names_are_attribute_errors(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        _ = sys.modules[module].Nothing


def test_a_publisher_does_not_pay_for_the_server() -> None:
    program = "import sys; from broker import Client; print({'broker.web', 'broker.fanout.hub', 'pydantic', 'redis'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
