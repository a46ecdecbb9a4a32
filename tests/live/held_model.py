"""The local model of the examples, which stops in mid-answer for as long as the test needs."""

from __future__ import annotations

import asyncio
import sys
from typing import Self

from aiohttp import web

from tests.live.examples import EXAMPLES
from tests.support.http import HOST

sys.path.append(str(EXAMPLES))
import model

BEGINNING = 20
"""Tokens, of more than a hundred."""


class HeldModel:
    """Says the first tokens of each answer, and the others when it may; an async context manager.

    Attributes:
        url: its base URL.
    """

    def __init__(self) -> None:
        self.url = ""
        self.hold()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self.url = f"http://{HOST}:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def hold(self, tokens: float = BEGINNING) -> None:
        """Answers that begin now stop after so many tokens."""
        self._allowed = tokens
        self._changed = asyncio.Event()

    def allow(self, tokens: float = float("inf")) -> None:
        """Answers may go on up to so many tokens, or to the end."""
        self._allowed = tokens
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, token in enumerate(model.answer_to(asked["messages"])):
            while number >= self._allowed:
                await self._changed.wait()
            await response.write(model._chunk({"content": token}, None))
        await response.write(model._chunk({}, "stop"))
        await response.write(b"data: [DONE]\n\n")
        return response
