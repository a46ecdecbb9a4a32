"""One instance, as an operator and connected clients see it: start, signals, drain, TLS, metrics port."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme
from redis import Redis

from broker.sse import Decoder
from tests.process.streams import read_to_end, subscribe
from tests.support.broker_process import BrokerProcess, refused_start
from tests.support.http import NDJSON, Connection, exchange, request
from tests.support.ports import free_port
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, wait_for

CHUNKED = "Transfer-Encoding: chunked"


def test_start_line_has_url_and_store(broker: BrokerProcess) -> None:
    assert re.match(r"broker: listening on http://127\.0\.0\.1:\d+, store: memory\n", broker.output)


def test_sigterm_without_subscribers_exits_0_at_once(broker: BrokerProcess) -> None:
    assert broker.terminate() == 0


def test_i8_drain_ends_every_stream_with_a_retry_of_its_own_and_loses_nothing() -> None:
    with BrokerProcess(drain_seconds=1) as broker:
        streams = [subscribe(broker) for _ in range(50)]
        ids = [broker.publish("news", str(number)) for number in range(20)]
        assert broker.terminate() == 0
        delays = set()
        for stream in streams:
            body = read_to_end(stream)
            *events, last = body.split(b"\n\n")
            assert [re.search(rb"^id: (.*)$", event, re.MULTILINE)[1].decode() for event in events] == ids  # type: ignore[index]
            retry = re.fullmatch(rb"(?::\n)*retry: (\d+)\n", last)
            assert retry, last
            delays.add(int(retry[1]))
            decoder = Decoder()
            decoder.feed(body)
            assert decoder.last_event_id == ids[-1]
        assert len(delays) > 10


def test_i8_drain_answers_every_long_poll_without_events() -> None:
    with BrokerProcess(drain_seconds=1) as broker, contextlib.ExitStack() as stack:
        last = broker.publish("other", "x")
        polls = [stack.enter_context(Connection(broker.port)) for _ in range(20)]
        for poll in polls:
            poll.send(request("GET", "/topics/news/events?wait=50s"))
        wait_for(lambda: broker.metric("broker_subscribers") == 20, "all wait")
        assert broker.terminate() == 0
        empty = {"events": [], "cursor": last, "more": False, "gap": None, "closed": False}
        assert [poll.answer().json() for poll in polls] == [empty] * 20


def test_publishes_are_answered_during_the_drain() -> None:
    with BrokerProcess(drain_notice_seconds=30) as broker:
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: _status(broker.url + "/readyz") == 503, "readiness fails")
        assert broker.publish("news", "x")


def test_a_body_that_arrives_during_the_drain_is_answered_at_its_end() -> None:
    with BrokerProcess(drain_notice_seconds=30) as broker, Connection(broker.port) as publisher:
        open_body(broker, publisher, "news")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: _status(broker.url + "/readyz") == 503, "readiness fails")
        publisher.send(b'd\r\n{"data": "2"}\r\n0\r\n\r\n')
        answer = publisher.answer()
        assert (answer.status, answer.json()["published"]) == (200, 2)


def test_a_body_that_is_open_when_the_drain_is_over_is_answered() -> None:
    with BrokerProcess() as broker, Connection(broker.port) as publisher, Connection(broker.port) as other:
        open_body(broker, publisher, "news")
        other.send(request("POST", "/topics/news", "Content-Length: 10") + b"half")
        assert broker.terminate() == 0
        for connection, progress in ((publisher, (2, 1)), (other, (None, None))):
            answer = connection.answer()
            problem = answer.json()
            assert (answer.status, problem["code"]) == (503, "unavailable")
            assert (problem.get("line"), problem.get("published")) == progress
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["connection"] == "close"
            assert not connection.rest()
        assert "ERROR" not in broker.output


def open_body(broker: BrokerProcess, publisher: Connection, topic: str) -> None:
    """Start a streamed body: one line is published, another is incomplete."""
    publisher.send(
        request("POST", f"/topics/{topic}", NDJSON, CHUNKED) + b'd\r\n{"data": "1"}\r\n1\r\n\n\r\n'
    )
    wait_for(lambda: broker.metric("broker_published_events_total") == 1, "the first line is published")


def test_a_second_sigterm_ends_at_once() -> None:
    with BrokerProcess(drain_notice_seconds=600) as broker, Connection(broker.port) as publisher:
        stream = subscribe(broker)
        open_body(broker, publisher, "other")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: _status(broker.url + "/readyz") == 503, "readiness fails")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end")
        assert broker.terminate() == 0
        assert publisher.answer().status == 503
        stream.close()


def test_a_second_sigterm_ends_a_broker_whose_clients_do_not_read() -> None:
    """`test_a_short_shutdown_waits_for_no_client_that_does_not_read` shows that it doesn't wait for them."""
    with BrokerProcess() as broker, Connection(broker.port) as deaf:
        deaf.socket.setblocking(True)
        deaf.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                deaf.socket.sendall(request("GET", "/page/page.css") * 100)
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not _listens(broker), "the drain is over, and the broker waits for open responses")
        assert broker.running
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end")
        assert broker.terminate() == 0


def _listens(broker: BrokerProcess) -> bool:
    try:
        socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_sighup_drains_too() -> None:
    with BrokerProcess(drain_seconds=0) as broker:
        stream = subscribe(broker)
        broker.send_signal(signal.SIGHUP)
        assert re.search(rb"retry: \d+\n$", read_to_end(stream))
        wait_for(lambda: not broker.running, "its end")
        assert broker.terminate() == 0


def test_an_ignored_sighup_stays_ignored() -> None:
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with BrokerProcess() as broker:
            broker.send_signal(signal.SIGHUP)
            assert broker.terminate() == 0
            assert "SIGHUP" not in broker.output
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_port_in_use_is_reported_in_one_line(broker: BrokerProcess) -> None:
    line = refused_start("--port", str(broker.port))
    assert "can't listen" in line
    assert str(broker.port) in line


def test_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    with BrokerProcess(tls_cert=cert, tls_key=key) as broker:
        assert broker.url.startswith("https://127.0.0.1:")


@pytest.mark.parametrize("proxy", [{}, {"proxy_protocol": True, "trusted_proxies": "192.0.2.1"}])
def test_a_tls_handshake_takes_no_longer_than_a_head(tmp_path: Path, proxy: dict[str, object]) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    settings = {"tls_cert": cert, "tls_key": key, "head_seconds": 0.2, **proxy}
    with BrokerProcess(**settings) as broker, Connection(broker.port) as silent:
        assert not silent.more(), "it is closed"


def test_metrics_have_their_own_port_if_set() -> None:
    port = free_port()
    with BrokerProcess(metrics_port=port, jwt_secrets=[HMAC.material]) as broker:
        text = exchange(port, request("GET", "/metrics"))
        assert (text.status, b"broker_subscribers 0.0\n" in text.body) == (200, True)
        assert exchange(port, request("GET", "/readyz")).status == 200
        renamed = b"GET /metrics HTTP/1.1\r\nHost: metrics.example\r\nConnection: close\r\n\r\n"
        assert exchange(port, renamed).status == 200, "a scraper may use any name (contract §5)"
        assert exchange(port, request("GET", "/topics/news", "Accept: application/json")).status == 404
        assert exchange(broker.port, request("GET", "/metrics")).status == 401
        preflight = request(
            "OPTIONS", "/metrics", "Origin: https://a.example", "Access-Control-Request-Method: GET"
        )
        assert exchange(port, preflight).status == 405, "no page may read these metrics"
        assert broker.terminate() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_start_line_that_cannot_be_printed_stops_the_broker(store: str, workers: int) -> None:
    """In an orderly way: the store no longer counts these instances."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "broker",
                "serve",
                "--port=0",
                f"--workers={workers}",
                f"--redis-url={store}",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "broker: can't print the start line: No space left on device"
    assert "Traceback" not in done.stderr
    with Redis.from_url(store) as redis:
        assert not [redis.smembers(key) for key in redis.scan_iter("*:instances*")]


def test_a_metrics_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused_start("--port", "0", "--metrics-port", str(taken.getsockname()[1]))
    assert "metrics_port" in line
