"""Accepting connections, and what their sockets inherit."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import pytest

from broker.process import accepting
from broker.process.accepting import ACCEPTS_PER_TURN, Acceptor
from broker.process.listening import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES, Listening
from broker.process.socket_transport import SocketTransport
from tests.support.waiting import WAIT_SECONDS, until


class Failing(socket.socket):
    """Refuses to accept as often as `failures` says."""

    failures = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


async def test_it_accepts_again_after_the_kernel_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "RETRY_SECONDS", 0.01)
    accepted: list[socket.socket] = []
    with Failing() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.failures = 2
        acceptor = Acceptor(listening, lambda connection, _: accepted.append(connection))
        with socket.create_connection(listening.getsockname()):
            await until(lambda: len(accepted) == 1, "it is accepted in the end")
        acceptor.close()
    accepted[0].close()
    refused = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in refused] == [
        "can't accept connections: Too many open files"
    ] * 2


async def test_it_accepts_all_of_a_crowd() -> None:
    accepted: dict[socket.socket, str] = {}
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        acceptor = Acceptor(listening, accepted.__setitem__)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(2 * ACCEPTS_PER_TURN + 3)]
        await until(lambda: len(accepted) == len(clients), "all are accepted")
        acceptor.close()
        assert not any(connection.getblocking() for connection in accepted)
        assert set(accepted.values()) == {"127.0.0.1"}
        for sock in (*accepted, *clients):
            sock.close()


class Kept(asyncio.Protocol):
    transport: asyncio.Transport | None = None
    received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data


async def test_i4_a_connection_inherits_the_options_of_the_listening_socket() -> None:
    """The kernel's buffers are bounded from accept on, without a system call for each connection."""
    protocol = Kept()

    def connect(peer: str = "") -> asyncio.Protocol:
        assert peer == "127.0.0.1"
        return protocol

    with socket.create_server(("127.0.0.1", 0)) as sock:
        listening = Listening(connect, [sock], trusted_proxies=None, head_seconds=5)
        await listening.start()
        with socket.create_connection(sock.getsockname()):
            await until(lambda: protocol.transport is not None, "it is connected")
            assert protocol.transport is not None
            made = protocol.transport.get_extra_info("socket")
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES
            assert made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * RECEIVE_BUFFER_BYTES
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            protocol.transport.close()
        listening.stop()
        await until(lambda: made.fileno() < 0, "it is closed")


WITHOUT_EPOLL = """
import select
for name in [name for name in dir(select) if name.lower().startswith("epoll")]:
    delattr(select, name)
import broker.process.instance, broker.process.listening
"""


def test_without_epoll_the_broker_can_be_imported() -> None:
    """As on macOS."""
    subprocess.run([sys.executable, "-c", WITHOUT_EPOLL], check=True, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("has_epoll", [True, False])
@pytest.mark.parametrize("kind", ["tcp", "unix", "proxied"])
async def test_without_epoll_the_loops_own_transports_serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, has_epoll: bool
) -> None:
    """As on macOS."""
    if not has_epoll:
        monkeypatch.delattr(select, "epoll")
    protocol = Kept()
    peers: list[str] = []

    def connect(peer: str = "") -> asyncio.Protocol:
        peers.append(peer)
        return protocol

    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as sock:
        sock.bind(str(tmp_path / "a.sock") if kind == "unix" else ("127.0.0.1", 0))
        trusted = [ip_network("127.0.0.0/8")] if kind == "proxied" else None
        listening = Listening(connect, [sock], trusted_proxies=trusted, head_seconds=5)
        await listening.start()
        with socket.socket(sock.family) as client:
            client.connect(sock.getsockname())
            if kind == "proxied":
                client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
            client.sendall(b"hello")
            await until(lambda: protocol.received == b"hello", "the first bytes have arrived")
            assert protocol.transport is not None
            assert isinstance(protocol.transport, SocketTransport) == has_epoll
            protocol.transport.write(b"answer")
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"answer"
            protocol.transport.close()
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
        listening.stop()
    told = {"tcp": "127.0.0.1" if has_epoll else "", "unix": "", "proxied": "192.0.2.1"}
    assert peers == [told[kind]], "without one, the transport knows it"
