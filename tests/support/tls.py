"""TLS in the test's own loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Protocol

import trustme

from broker.process.listening import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES, Listening
from broker.web.runner import Runner
from tests.support.http import HOST


class Closable(Protocol):
    def close(self) -> None: ...


class _Listening(Listening):
    def close(self) -> None:
        self.stop()


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """One for a server called localhost, one for clients that trust it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


async def listen_securely(
    runner: Runner, context: ssl.SSLContext, *, with_transports_of_the_loop: bool = False
) -> tuple[Closable, int]:
    """Serve the runner's front with TLS as `broker serve` does, or as it does without epoll; what closes it, and its port."""
    assert runner.front is not None
    sock = socket.create_server((HOST, 0))
    port = sock.getsockname()[1]
    connect_securely = runner.front.secured(context)
    if not with_transports_of_the_loop:
        listening = _Listening(
            runner.front, [sock], connect_securely=connect_securely, trusted_proxies=None, head_seconds=1
        )
        await listening.start()
        return listening, port
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    return await asyncio.get_running_loop().create_server(connect_securely, sock=sock), port
