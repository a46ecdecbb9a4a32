"""The blocking `publish`."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from broker.client import PublishError, publish
from tests.client.servers import answer, problem
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream


def events_of(broker: BrokerProcess, topic: str, count: int) -> list[tuple[str, str | None, str]]:
    """The first events that a topic keeps."""
    with Stream(broker.port, f"/topics/{topic}?since=earliest") as stream:
        return [(event.data, event.type, event.id) for event in stream.wait_for_events(count)]


def test_published_events_arrive(broker: BrokerProcess) -> None:
    ids = [
        publish(broker.url, "a.b", "hello"),
        publish(broker.url + "/", "a.b", "zwei\nZeilen ü", "größe &="),
        publish(broker.url, "a.b", b"", timeout=5, token="t"),
    ]
    assert events_of(broker, "a.b", 3) == [
        ("hello", None, ids[0]),
        ("zwei\nZeilen ü", "größe &=", ids[1]),
        ("", None, ids[2]),
    ]


def test_an_event_may_end_its_topic(broker: BrokerProcess) -> None:
    publish(broker.url, "a", "first", retain="2h")
    publish(broker.url, "a", "last", end=True, reason="failed")
    publish(broker.url, "a", b"", end=True)
    with Stream(broker.port, "/topics/a?since=earliest") as stream:
        assert b'"reason":"failed"' in stream.rest()
    with pytest.raises(PublishError) as caught:
        publish(broker.url, "a", "more")
    assert caught.value.code == "closed"


def test_an_idempotency_key_publishes_once(broker: BrokerProcess) -> None:
    first = publish(broker.url, "a", "x", idempotency_key="k")
    assert publish(broker.url, "a", "x", idempotency_key="k") == first


@pytest.mark.parametrize(
    ("topic", "data", "event_type", "code", "status"),
    [
        ("a", b"\xff", None, "invalid-body", 400),
        ("a", "x", "broker.x", "invalid-parameter", 400),
        ("a", "x" * 300_000, None, "too-large", 413),
        ("_a", "x", None, "forbidden", 403),
        ("a b", "x", None, "invalid-topic", None),
    ],
)
def test_errors_have_code_and_status(
    broker: BrokerProcess,
    topic: str,
    data: str | bytes,
    event_type: str | None,
    code: str,
    status: int | None,
) -> None:
    with pytest.raises(PublishError) as raised:
        publish(broker.url, topic, data, event_type)
    assert (raised.value.code, raised.value.status) == (code, status)


def test_invalid_arguments_are_value_errors() -> None:
    with pytest.raises(ValueError, match="URL"):
        publish("localhost:8080", "a", "x")
    with pytest.raises(ValueError, match="header"):
        publish("http://127.0.0.1:1", "a", "x", idempotency_key="a\r\nb: c")
    with pytest.raises(ValueError, match="surrogate"):
        publish("http://127.0.0.1:1", "a", "\ud800")


def serve_once(data: bytes | None) -> str:
    """Start a server that answers its first connection with `data`, or never; returns its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            if data is not None:
                connection.sendall(data)
            else:
                while connection.recv(65536):
                    """Until the client has disconnected."""

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "unreachable"),
        (b"junk", "unreachable"),
        (answer("201 Created", b"no json"), "unexpected"),
        (answer("302 Found", b"", "Location: /"), "unexpected"),
        (answer("502 Bad Gateway", b"<html>"), "unexpected"),
        (problem("503 Service Unavailable", "overloaded", "Retry-After: 5"), "overloaded"),
    ],
)
def test_unexpected_responses_are_errors(data: bytes, code: str) -> None:
    with pytest.raises(PublishError) as raised:
        publish(serve_once(data), "a", "x")
    assert raised.value.code == code
    assert raised.value.retry_after == (5 if code == "overloaded" else None)


def test_a_server_that_does_not_respond_is_an_error() -> None:
    with pytest.raises(PublishError, match="took too long") as raised:
        publish(serve_once(None), "a", "x", timeout=0.2)
    assert raised.value.code == "unreachable"


def test_the_error_for_an_unreachable_broker_names_its_url() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with pytest.raises(PublishError, match=f"No answer from {url}: Connection refused") as raised:
        publish(url, "a", "x")
    assert type(raised.value) is PublishError, "a traceback names no class that callers don't know"
    assert not raised.value.was_sent


def test_the_certificate_of_the_broker_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with BrokerProcess(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as broker:
        url = f"https://localhost:{broker.port}"
        with pytest.raises(PublishError) as raised:
            publish(url, "a", "x")
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert publish(url, "a", "x")
