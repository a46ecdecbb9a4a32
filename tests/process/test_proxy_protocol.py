"""The PROXY protocol, as a proxy and its clients see it. Limits by address show which address counts."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, Connection, exchange, request
from tests.support.waiting import WAIT_SECONDS, wait_for

PUBLISH = request("POST", "/topics/a", body=b"x")
HEALTH = request("GET", "/healthz")


def v1(address: str) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 1234 80\r\n".encode()


def v2(address: str) -> bytes:
    addresses = socket.inet_aton(address) + socket.inet_aton("127.0.0.1") + b"\x10\x00\x00\x50"
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + len(addresses).to_bytes(2) + addresses


@contextmanager
def proxied(**settings: object) -> Iterator[BrokerProcess]:
    """A broker that trusts 127.0.0.1, and lets each client publish one event."""
    with BrokerProcess(
        proxy_protocol=True,
        trusted_proxies="127.0.0.1",
        max_publishes_per_second=0.01,
        **settings,
    ) as broker:
        yield broker


@pytest.mark.parametrize(("header", "workers"), [(v1, 1), (v2, 2)])
def test_the_address_in_the_header_counts(store: str, header: object, workers: int) -> None:
    assert callable(header)
    with proxied(workers=workers, redis_url=store) as broker:
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
            answers = {exchange(broker.port, header(address) + PUBLISH).status for _ in range(6)}
            assert answers == {201, 429}, "the first is let in, however many came from other addresses"
        assert broker.terminate() == 0


def test_a_header_may_arrive_byte_by_byte() -> None:
    with proxied() as broker, Connection(broker.port) as connection:
        for byte in v2("192.0.2.1"):
            connection.send(bytes((byte,)))
        connection.send(HEALTH)
        assert connection.answer().status == 200


def test_a_trusted_proxy_without_a_header_is_closed_and_logged() -> None:
    """The protocol forbids guessing: a client of the proxy could write a header itself."""
    with proxied() as broker, Connection(broker.port) as connection:
        connection.send(HEALTH)
        assert connection.rest() == b""
        wait_for(lambda: "without a PROXY header: there is none" in broker.output, "the log")


def test_a_header_that_takes_too_long_is_closed() -> None:
    with proxied(head_seconds=0.1) as broker, Connection(broker.port) as connection:
        connection.send(b"PROXY TCP4 ")
        assert connection.rest() == b""
        wait_for(lambda: "it did not arrive in time" in broker.output, "the log")


def test_others_need_no_header_and_can_not_use_one() -> None:
    with proxied(host="127.0.0.1,127.0.0.2") as broker:
        with socket.create_connection(
            (HOST, broker.port), timeout=WAIT_SECONDS, source_address=("127.0.0.9", 0)
        ) as stranger:
            stranger.sendall(HEALTH)
            assert stranger.recv(100).startswith(b"HTTP/1.1 200")
        with socket.create_connection(
            (HOST, broker.port), timeout=WAIT_SECONDS, source_address=("127.0.0.9", 0)
        ) as liar:
            liar.sendall(v1("192.0.2.1") + HEALTH)
            assert b" 400 " in liar.recv(100)


def test_the_header_comes_before_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with proxied(tls_cert=cert, tls_key=key) as broker:
        for _ in range(2):
            with socket.create_connection((HOST, broker.port), timeout=WAIT_SECONDS) as plain:
                plain.sendall(v2("192.0.2.1"))
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    secure.sendall(HEALTH)
                    assert secure.recv(100).startswith(b"HTTP/1.1 200")
        assert broker.terminate() == 0


def test_it_goes_on_after_all_descriptors_were_in_use() -> None:
    with proxied(descriptors=64) as broker:
        crowd = [socket.create_connection((HOST, broker.port), timeout=WAIT_SECONDS) for _ in range(100)]
        wait_for(lambda: "can't accept connections" in broker.output, "the limit")
        for connection in crowd:
            connection.close()
        assert exchange(broker.port, v1("192.0.2.1") + PUBLISH).status == 201
        assert broker.terminate() == 0


def test_a_stream_behind_the_header_gets_its_events() -> None:
    with proxied() as broker, Connection(broker.port) as stream:
        stream.send(v1("192.0.2.1") + request("GET", "/topics/a", "Accept: text/event-stream"))
        stream.until(b"broker.open")
        assert exchange(broker.port, v1("192.0.2.2") + PUBLISH).status == 201
        stream.until(b"data: x\n")
        assert broker.terminate() == 0
