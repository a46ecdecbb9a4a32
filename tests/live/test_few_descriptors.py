"""Every attack with more connections than there are descriptors: others are served, and memory is bounded.

A broker with 512 descriptors meets 600 connections of one kind, plain and with TLS, all held open for as long as it allows. Meanwhile
an open stream gets its events, and new clients can publish and ask. The memory of all 600 together is bounded.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, NDJSON, chunked, exchange, request
from tests.support.waiting import WAIT_SECONDS, wait_for

DESCRIPTORS = 512
COUNT = 600
ROUNDS = 5
EVENT_STREAM = "Content-Type: text/event-stream"
CHUNKED = "Transfer-Encoding: chunked"
TALK_BYTES = 64 << 10
MOST_BYTES = {"plain": 160 << 20, "tls": 320 << 20}
"""Of memory that the attack may take: the limits are 64 MiB each for bodies, for unserved bytes and for large pages. TLS needs up
to 0.3 MB a connection besides."""

LARGE_BODY = b"data:\xe2\x82\xac\n" * 20_000
PIPELINED = b"".join(request("GET", f"/{number}") for number in range(1200))


@dataclass(frozen=True)
class Server:
    """A broker, plain or with TLS, and how its clients connect."""

    broker: BrokerProcess
    kind: str
    local: Path
    trusting: ssl.SSLContext | None

    def connect(self, *, is_secure: bool = True, receive_buffer: int | None = None) -> socket.socket:
        """A new connection; with TLS after its handshake, unless it is not to be secure."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(WAIT_SECONDS)
        sock.connect((HOST, self.broker.port))
        if self.trusting is None or not is_secure:
            return sock
        return self.trusting.wrap_socket(sock, server_hostname="localhost")

    def ask(self, data: bytes) -> int:
        """The status of the answer to one request."""
        with self.connect() as sock:
            sock.sendall(data)
            head = sock.recv(4096)
            return int(head.split(b" ", 2)[1])

    def metric(self, name: str) -> float:
        """Over the unix socket: there must be room for its connections too."""
        text = exchange(self.local, request("GET", "/metrics")).body.decode()
        return next(
            (float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0
        )


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("few")
    settings: dict[str, object] = {"unix_socket": folder / "broker.sock", "descriptors": DESCRIPTORS}
    trusting = None
    if request.param == "tls":
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        settings |= {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    with BrokerProcess(**settings) as broker:
        yield Server(broker, request.param, folder / "broker.sock", trusting)


Attack = Callable[[Server], socket.socket]
"""Opens one connection and sends as much as is taken."""


def sends(data: bytes, *, reads: bool = True, is_half_closed: bool = False) -> Attack:
    """Connections that send `data`, and then nothing; those that don't read have a small buffer."""

    def attack(server: Server) -> socket.socket:
        sock = server.connect(receive_buffer=None if reads else 4096)
        _send(sock, data)
        if is_half_closed and server.trusting is None:
            sock.shutdown(socket.SHUT_WR)
        return sock

    return attack


def before_tls(data: bytes) -> Attack:
    """The same without a handshake: without TLS, bytes that are not HTTP."""

    def attack(server: Server) -> socket.socket:
        sock = server.connect(is_secure=False)
        _send(sock, data)
        return sock

    return attack


def talks(server: Server) -> socket.socket:
    """A subscriber that sends."""
    sock = server.connect()
    sock.sendall(request("GET", "/topics/a"))
    sock.recv(1000)
    _send(sock, b"x" * TALK_BYTES)
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    """Send as much as the broker takes at once: it may stop reading, or end the connection."""
    sock.settimeout(0.02)
    with contextlib.suppress(OSError):
        sock.sendall(data)


ATTACKS = {
    "silent": before_tls(b""),
    "half a hello": before_tls(b"\x16\x03\x01\x02\x00\x01"),
    "a long hello": before_tls(b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb" + b"\0" * 16_000),
    "silent after the handshake": sends(b""),
    "half a head": sends(b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 7000),
    "one byte of a body": sends(request("POST", "/topics/a", "Content-Length: 100000") + b"x"),
    "most of a body": sends(request("POST", "/topics/a", "Content-Length: 250000") + b"x" * 249_999),
    "most of an event": sends(
        request("POST", "/topics/a", EVENT_STREAM, CHUNKED) + chunked(LARGE_BODY, end=b"")
    ),
    "a streamed body": sends(request("POST", "/topics/a", NDJSON, CHUNKED) + chunked(b'{"data": "', end=b"")),
    "a body that is awaited": sends(
        request("POST", "/topics/a", "Content-Length: 9", "Expect: 100-continue")
    ),
    "unread answers": sends(request("GET", "/client.js") * 8 + PIPELINED, reads=False),
    "an unread page": sends(request("GET", "/topics/big/events"), reads=False),
    "kept open": sends(request("GET", "/healthz")),
    "refused, and goes on": sends(request("POST", "/nowhere", "Content-Length: 900000") + b"x" * 100_000),
    "half closed": sends(request("GET", "/client.js") * 8, reads=False, is_half_closed=True),
    "an upgrade": sends(request("GET", "/healthz", "Connection: Upgrade", "Upgrade: websocket")),
    "streams": sends(request("GET", "/topics/a")),
    "streams that read nothing": sends(request("GET", "/topics/big?since=earliest"), reads=False),
    "streams that talk": talks,
    "long polls": sends(request("GET", "/topics/a/events?wait=50s")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_i9_others_are_served_at_512_descriptors(server: Server, name: str) -> None:
    page = request("POST", "/topics/big", NDJSON, body=b'{"data": "%b"}\n' % (b"x" * 9000) * 100)
    assert server.ask(page) == 200
    before, logged = server.broker.resident_bytes(), len(server.broker.output)
    with contextlib.ExitStack() as stack:
        subscriber = stack.enter_context(server.connect())
        subscriber.sendall(request("GET", "/topics/honest"))
        for _ in range(COUNT):
            # The kernel accepts what the broker has no descriptor for yet; a handshake with it may fail.
            with contextlib.suppress(OSError):
                stack.enter_context(ATTACKS[name](server))
        for number in range(ROUNDS):
            began = time.monotonic()
            assert server.ask(request("GET", "/healthz")) == 200
            assert server.ask(request("POST", "/topics/honest", body=b"event %d" % number)) == 201
            _read_until(subscriber, b"data: event %d\n" % number)
            assert time.monotonic() - began < WAIT_SECONDS / 4
        assert server.broker.resident_bytes() - before < MOST_BYTES[server.kind]
    wait_for(lambda: server.metric("broker_request_connections") <= 1, "its connections to be gone")
    wait_for(lambda: server.metric("broker_subscribers") == 0, "its streams to be gone")
    assert server.metric("broker_body_bytes") == 0
    output = server.broker.output[logged:]
    assert [line for line in output.splitlines() if " ERROR " in line or "Traceback" in line] == []


def _read_until(sock: socket.socket, wanted: bytes) -> None:
    received = b""
    while wanted not in received:
        data = sock.recv(1 << 16)
        assert data, f"the stream ended before {wanted!r}"
        received += data
