"""The application's start and stop."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from broker.node.node import Node
from broker.process.app import create_app
from broker.settings import Settings
from broker.web.aiohttp_adapter import SERVICES
from broker.web.jwks_fetcher import JwksFetcher
from broker.web.producers import Producers


@pytest.mark.parametrize("failing", [JwksFetcher, Producers])
async def test_the_node_stops_even_if_another_part_fails_to(
    monkeypatch: pytest.MonkeyPatch, failing: type[JwksFetcher | Producers]
) -> None:
    stop_part, stop_node = failing.stop, Node.stop
    stopped: list[Node] = []

    async def fail(part: Any) -> None:
        await stop_part(part)
        raise RuntimeError("its task has died")

    async def record(node: Node) -> None:
        stopped.append(node)
        await stop_node(node)

    monkeypatch.setattr(failing, "stop", fail)
    monkeypatch.setattr(Node, "stop", record)
    app = create_app(Settings(jwks_url="http://127.0.0.1:1/keys"))
    runner = web.AppRunner(app)
    await runner.setup()
    node = app[SERVICES].node
    with pytest.raises(RuntimeError):
        await runner.cleanup()
    assert stopped == [node]
