"""Misused connections: pipelines, garbage behind a request, clients that leave at any moment. All connections end."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.live.control_client import kept
from tests.live.test_bad_input import post
from tests.support.broker_process import BrokerProcess
from tests.support.http import JSON, NDJSON, RESET_ON_CLOSE, Connection, chunked, exchange, request
from tests.support.waiting import WAIT_SECONDS, wait_for

MANY = 500
HEARTBEAT_SECONDS = 1.0
SETTINGS = {"heartbeat_seconds": HEARTBEAT_SECONDS}
pytestmark = pytest.mark.usefixtures("no_client_is_left")


def subscribed(server: BrokerProcess, topic: str) -> int:
    return int(exchange(server.port, request("GET", f"/topics/{topic}", JSON)).json()["subscribers"])


# Pipelines


def test_hundreds_of_pipelined_requests_are_answered_in_order(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        connection.send(b"".join(post(f"/topics/{topic}", body=b"%d" % number) for number in range(MANY)))
        ids = [connection.answer().json()["id"] for _ in range(MANY)]
    assert len(set(ids)) == MANY
    assert [data for _, data in kept(server.port, topic)] == [str(number) for number in range(MANY)]


def test_pipelined_requests_of_which_some_are_bad(server: BrokerProcess, topic: str) -> None:
    kinds = [(post(f"/topics/{topic}"), 201), (post("/topics/.."), 400), (request("GET", "/nowhere"), 404)]
    asked = [random.Random(7).choice(kinds) for _ in range(MANY)]
    with Connection(server.port) as connection:
        connection.send(b"".join(data for data, _ in asked))
        assert [connection.answer().status for _ in asked] == [status for _, status in asked]


def test_pipelined_and_never_read(server: BrokerProcess) -> None:
    """Unread answers fill the connection's buffers, and then the broker stops reading from it, too."""
    before = server.resident_bytes()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(2)
        asked = request("GET", "/metrics") * 1000
        with pytest.raises(TimeoutError):
            while True:
                sock.sendall(asked)
    assert server.resident_bytes() - before < 32 << 20


def test_stream_behind_pipelined_publishes_sees_them_all(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        publishes = [post(f"/topics/{topic}", body=b"%d" % number) for number in range(MANY)]
        connection.send(b"".join(publishes) + request("GET", f"/topics/{topic}?since=earliest"))
        for _ in range(MANY):
            assert connection.answer().status == 201
        assert connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        for number in range(MANY):
            connection.until(b"data: %d\n" % number)
        server.publish(topic, "live")
        connection.until(b"data: live\n")


def test_large_answers_before_a_stream_on_the_same_connection(server: BrokerProcess, topic: str) -> None:
    """The stream begins once its slow reader has read the answers before it."""
    server.publish(topic, "kept")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        asked = 20
        sock.sendall(request("GET", "/metrics") * asked + request("GET", f"/topics/{topic}?since=earliest"))
        for number in range(5):
            server.publish(topic, f"live {number}")
        received = b""
        sock.settimeout(WAIT_SECONDS)
        while b"data: live 4\n" not in received:
            received += sock.recv(1 << 16)
    answers, _, stream = received.partition(b"retry: ")
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == asked + 1
    data = [line for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert data == [b"data: kept", *(b"data: live %d" % number for number in range(5))]


BEHIND = {
    "publishes": post("/topics/TOPIC", body=b"behind") * MANY,
    "streams": request("GET", "/topics/TOPIC") * MANY,
    "half a request": b"POST /topics/x HTTP/1.1\r\nHos",
    "garbage": b"\xff\0\r\n\r\n" * 5000,
}


def leave(connection: Connection, how: str) -> None:
    if how == "half-closes":
        connection.half_close()
        connection.rest()
    elif how == "resets":
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.socket.close()


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
def test_subscriber_with_something_behind_its_request_leaves_and_is_gone(
    server: BrokerProcess, topic: str, what: str, how: str
) -> None:
    behind = BEHIND[what].replace(b"TOPIC", topic.encode())
    with Connection(server.port) as connection:
        at_once = b"" if what == "garbage" else behind
        connection.send(request("GET", f"/topics/{topic}") + at_once)
        connection.stream_head()
        assert b"HTTP/1.1 " not in connection.until(b"\n\n"), "nothing behind a stream is answered"
        assert subscribed(server, topic) == 1
        server.publish(topic, "live")
        assert connection.until(b"\n\n").startswith(b"data: live\n")
        connection.send(behind)
        leave(connection, how)
    wait_for(lambda: subscribed(server, topic) == 0, "the subscriber to be gone")
    assert [data for _, data in kept(server.port, topic)] == ["live"]


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/topics/TOPIC") + BEHIND["garbage"],
        request("GET", "/topics/TOPIC", "Transfer-Encoding: chunked") + chunked(b"x" * 1000, end=b"ZZ\r\n"),
        request("GET", "/topics/TOPIC", "Content-Length: 1000") + b"x" * 500,
        request("GET", "/topics/TOPIC", "Content-Length: 1000") + b"x" * 5000,
    ],
    ids=["garbage", "bad chunk", "cut body", "long body"],
)
def test_subscriber_with_garbage_in_the_same_breath_is_refused_or_served_and_gone_when_it_leaves(
    server: BrokerProcess, topic: str, data: bytes, how: str
) -> None:
    with Connection(server.port) as connection:
        connection.send(data.replace(b"TOPIC", topic.encode()))
        first = connection.until(b"\r\n")
        assert first.split()[1] in (b"200", b"400")
        if first.split()[1] == b"400":
            connection.rest()
        leave(connection, how)
    wait_for(lambda: subscribed(server, topic) == 0, "the subscriber to be gone")


def test_garbage_without_end_from_a_subscriber_costs_no_memory(server: BrokerProcess, topic: str) -> None:
    floods = server.metric('broker_closes_total{reason="flood"}')
    with Connection(server.port) as connection:
        connection.send(request("GET", f"/topics/{topic}"))
        connection.until(b"\n\n")
        before = server.resident_bytes()
        for _ in range(64):
            connection.send(b"\xff" * (1 << 20))
        connection.rest()
    wait_for(lambda: server.metric('broker_closes_total{reason="flood"}') == floods + 1, "it is counted")
    assert server.resident_bytes() - before < 16 << 20


def test_i4_subscribers_that_talk_over_tls_cost_no_memory(tmp_path: Path) -> None:
    """What TLS has buffered goes with the connection."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    local = tmp_path / "broker.sock"
    with (
        BrokerProcess(
            tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem", unix_socket=local
        ) as broker,
        contextlib.ExitStack() as stack,
    ):

        def talk() -> socket.socket:
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", broker.port)))
            client = stack.enter_context(trusting.wrap_socket(plain, server_hostname="localhost"))
            client.sendall(request("GET", "/topics/a"))
            with contextlib.suppress(OSError):
                for _ in range(8):
                    client.sendall(b"x" * (64 << 10))
            return client

        talk()
        before = broker.resident_bytes()
        for _ in range(100):
            talk()
        cut = b'broker_closes_total{reason="flood"} 101.0'
        wait_for(lambda: cut in exchange(local, request("GET", "/metrics")).body, "their end")
        assert broker.resident_bytes() - before < 8 << 20


# Leaving


def test_subscribers_that_leave_at_any_moment_leave_nothing_behind(server: BrokerProcess, topic: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server.publish(topic, "x" * 100_000)
    targets = [f"/topics/{topic}?since=earliest", f"/topics?topic={topic}&topic=b&last=5&envelope=json"]
    for _ in range(300):
        with Connection(server.port) as connection:
            data = request("GET", chance.choice(targets))
            connection.send(data[: chance.choice([len(data), len(data), chance.randrange(len(data))])])
            if chance.random() < 0.3:
                connection.half_close()
            if chance.random() < 0.3 and len(connection.received) == 0:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            if chance.random() < 0.3:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


def test_subscriber_that_half_closes_with_its_request_and_then_leaves_is_gone(
    server: BrokerProcess, topic: str
) -> None:
    with Connection(server.port) as connection:
        connection.send(request("GET", f"/topics/{topic}"))
        connection.half_close()
    wait_for(lambda: subscribed(server, topic) == 0, "the subscriber to be gone")


def test_publishers_that_leave_while_they_are_answered(server: BrokerProcess, topic: str) -> None:
    for _ in range(300):
        with Connection(server.port) as connection:
            connection.send(post(f"/topics/{topic}") * 3)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    assert exchange(server.port, post(f"/topics/{topic}")).status == 201


def test_publishers_that_stall_do_not_delay_others(server: BrokerProcess, topic: str) -> None:
    begun = [
        b"",
        b"POST",
        b"POST /topics/a HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        request("POST", "/topics/a", "Content-Length: 10") + b"123",
        request("POST", "/topics/a", NDJSON, "Transfer-Encoding: chunked") + b"5\r\n{",
        request("POST", "/topics/a", "Expect: 100-continue", "Content-Length: 10"),
    ]
    stuck = [Connection(server.port) for _ in range(MANY)]
    for number, connection in enumerate(stuck):
        connection.send(begun[number % len(begun)])
    assert exchange(server.port, post(f"/topics/{topic}")).status == 201
    assert exchange(server.port, request("GET", "/healthz")).status == 200
    for connection in stuck:
        connection.socket.close()


# Old and odd clients


@pytest.mark.parametrize("headers", [b"", b"Connection: keep-alive\r\n", b"Host: localhost\r\n"])
def test_http_1_0_subscriber(server: BrokerProcess, topic: str, headers: bytes) -> None:
    with Connection(server.port) as connection:
        connection.send(b"GET /topics/%b HTTP/1.0\r\n%b\r\n" % (topic.encode(), headers))
        head = connection.until(b"\r\n\r\n").lower()
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        server.publish(topic, "live")
        connection.until(b"data: live\n")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_upgrade_that_is_not_offered_is_ignored(server: BrokerProcess, topic: str, protocol: str) -> None:
    with Connection(server.port) as connection:
        connection.send(
            request(
                "GET",
                f"/topics/{topic}",
                "Connection: Upgrade",
                f"Upgrade: {protocol}",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            )
        )
        assert connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        connection.send(b"\x81\x05hello")
        server.publish(topic, "live")
        connection.until(b"data: live\n")


def test_head_requests_keep_the_connection_in_step(server: BrokerProcess, topic: str) -> None:
    with Connection(server.port) as connection:
        connection.send(request("HEAD", f"/topics/{topic}") * 3 + request("GET", "/healthz"))
        for _ in range(3):
            head = connection.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"text/event-stream" in head
        assert connection.answer().json() == {"status": "ok"}
