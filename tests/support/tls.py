"""TLS in the test's own loop."""

from __future__ import annotations

import asyncio
import socket
import ssl

import trustme

from broker.process.listening import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
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
    """Serve the runner's front with TLS, on sockets with the buffers that `broker serve` gives them; the server, and its port."""
    assert runner.front is not None
    sock = socket.create_server((HOST, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    listening = await asyncio.get_running_loop().create_server(runner.front.secured(context), sock=sock)
    return listening, sock.getsockname()[1]
