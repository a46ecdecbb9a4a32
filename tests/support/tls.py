"""TLS in the test's own loop."""

from __future__ import annotations

import asyncio
import ssl

import trustme

from broker.web.runner import Runner
from tests.support.http import HOST


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """One for a server called localhost, one for clients that trust it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


async def listen_securely(runner: Runner, context: ssl.SSLContext) -> tuple[asyncio.Server, int]:
    """Serve the runner's front with TLS; the server, and its port."""
    assert runner.front is not None
    listening = await asyncio.get_running_loop().create_server(runner.front.secured(context), HOST, 0)
    return listening, listening.sockets[0].getsockname()[1]
