"""Serves a stream as a plain response of aiohttp: the slower way, for an application that somebody else serves."""

from __future__ import annotations

from aiohttp import web

from broker.web.subscribe import Subscription


async def serve(request: web.Request, subscription: Subscription) -> web.StreamResponse:
    """Answer `request` with the stream, until it ends or the client leaves."""
    raise NotImplementedError
