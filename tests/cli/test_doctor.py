"""`broker doctor` as a shell runs it."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
import trustme

from broker.doctor.checks import CHECKS
from tests.cli.commands import Command, run, without
from tests.live.proxied import Swallower
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.http import HOST, JSON, exchange, request
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import wait_for

SHORT = "--silence=1"


@pytest.fixture
def broker(shared_brokers: SharedBrokers) -> BrokerProcess:
    return shared_brokers.get(heartbeat_seconds=0.5)


def topics(broker: BrokerProcess, *headers: str) -> list[str]:
    """Those that have events or subscribers; the broker remembers the names of others."""
    answer = exchange(broker.port, request("GET", "/topics?limit=1000", JSON, *headers))
    return [
        str(topic["topic"]) for topic in answer.json()["topics"] if topic["events"] or topic["subscribers"]
    ]


def test_the_report_is_on_standard_output_and_the_progress_is_not(broker: BrokerProcess) -> None:
    done = run(broker.url, "doctor", broker.url, SHORT)
    assert done.returncode == 0, done
    first, *_, last = done.stdout.decode().splitlines()
    assert first == f"{broker.url}, through no proxy that could be recognised"
    assert last.startswith("0 errors, 1 warning, ")
    assert done.stderr.decode().splitlines() == [f"examining {broker.url}", f"checks ({len(CHECKS)})"]
    assert topics(broker) == []


def test_json(broker: BrokerProcess) -> None:
    done = run(broker.url, "doctor", SHORT, "--json", "--topic", "check.up")
    report = json.loads(done.stdout)
    assert report["url"] == broker.url, "BROKER_URL"
    assert report["hops"] == []
    assert report["counts"]["error"] == 0
    assert sum(report["counts"].values()) == len(report["findings"])
    by_code = {finding["code"]: finding for finding in report["findings"]}
    assert by_code["buffering"]["severity"] == "ok"
    assert by_code["buffering"]["remedies"] == {}
    assert "nginx" in by_code["http2"]["remedies"]
    assert topics(broker) == []


def test_an_error_is_exit_status_1(broker: BrokerProcess) -> None:
    with BrokerProcess(base_path="/events") as below:
        done = run(below.url, "doctor", f"http://{HOST}:{below.port}", SHORT, "--json")
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["code"], finding["severity"]) == ("base-path", "error")
    assert "--base-path" in finding["remedies"]["any"]
    assert "/events/topics/" in finding["evidence"]


def test_single_checks(broker: BrokerProcess) -> None:
    done = run(broker.url, "doctor", "--only=gap", "--only=host", "--json")
    assert done.returncode == 0
    assert [finding["code"] for finding in json.loads(done.stdout)["findings"]] == ["host", "gap", "topics"]
    assert b"invalid choice: 'gaps'" in run(broker.url, "doctor", "--only=gaps").stderr


def fails(*words: str) -> str:
    """The one line of a doctor that can examine nothing."""
    done = run("http://127.0.0.1:1", "doctor", *words)
    assert (done.returncode, done.stdout) == (2, b""), done
    line = done.stderr.decode().splitlines()[-1]
    assert line.startswith("broker doctor: ")
    return line


def test_an_unreachable_host() -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        assert "Connection refused" in fails(f"http://{HOST}:{unused.getsockname()[1]}")
    assert "No connection to http://nowhere.invalid" in fails("http://nowhere.invalid")


def test_a_server_that_is_no_broker() -> None:
    with Swallower() as swallower:
        assert "No answer from" in fails(swallower.url)


def test_http_to_a_port_with_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate = trustme.CA().issue_cert(HOST)
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    with BrokerProcess(tls_cert=cert, tls_key=key) as broker:
        line = fails(f"http://{HOST}:{broker.port}")
    assert line.endswith(f": the port speaks TLS; use https://{HOST}:{broker.port}")


def test_wrong_usage() -> None:
    assert "is not the URL of a broker" in fails("ftp://example.com")
    assert "is not an origin" in fails("http://example.com", "--origin", "app.example.com")
    assert "is not a number of seconds" in fails("http://example.com", "--silence", "0")
    assert "cannot read the certificates" in fails("https://example.com", "--ca-file", "/nonexistent")


def test_a_broker_that_needs_a_token() -> None:
    with BrokerProcess(jwt_secrets=[SECRET], heartbeat_seconds=0.5) as broker:
        line = fails(broker.url)
        assert "broker token --publish 'doctor.*'" in line
        assert "broker token --publish 'x.*'" in fails(broker.url, "--topic", "x")
        token = HMAC.token(["doctor.*"], ["doctor.*"])
        done = run(broker.url, "doctor", SHORT, "--json", "--token", token)
        assert token not in (done.stdout + done.stderr).decode()
        operator = HMAC.token(admin=True)
        found = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
        assert done.returncode == 0, done.stdout
        for code in ("authorization", "query-token"):
            assert found[code]["severity"] == "ok"
        for code in ("idle-timeout", "forwarded", "topics"):
            assert found[code]["severity"] == "info"
            assert "admin" in found[code]["evidence"]
        left = topics(broker, f"Authorization: Bearer {operator}")
        for topic in left:
            headers = (JSON, f"Authorization: Bearer {operator}")
            reader = HMAC.token(subscribe=["**"])
            shown = exchange(
                broker.port, request("GET", f"/topics/{topic}", JSON, f"Authorization: Bearer {reader}")
            )
            assert shown.json()["closed"], headers


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_its_topics_are_deleted_when_it_is_stopped(
    broker: BrokerProcess, number: signal.Signals, status: int
) -> None:
    with Command(broker.url, "doctor", broker.url, "--long") as command:
        wait_for(lambda: topics(broker), "topics")
        command.says("checks")
        command.process.send_signal(number)
        assert command.wait() == status
        assert command.out == []
    wait_for(lambda: broker.metric("broker_subscribers") == 0, "its streams to be gone")
    assert topics(broker) == []


def test_a_certificate_that_is_not_trusted_gets_no_token(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost", HOST)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    with BrokerProcess(tls_cert=certificate, tls_key=key) as broker:
        done = run(broker.url, "doctor", broker.url, "--token", HMAC.token(), "--json")
        assert done.returncode == 1
        (finding,) = json.loads(done.stdout)["findings"]
        assert (finding["code"], finding["severity"]) == ("tls", "error")
        assert "self-signed" in finding["evidence"] or "unable to get local issuer" in finding["evidence"]


def test_without_the_library_for_bars(broker: BrokerProcess, tmp_path: Path) -> None:
    with Command(
        broker.url, "doctor", SHORT, terminal="stderr", variables=without(tmp_path, "rich")
    ) as command:
        assert command.wait() == 0
        assert any(b"no progress bar" in line for line in command.err)


def test_the_bar_on_a_terminal(broker: BrokerProcess) -> None:
    with Command(broker.url, "doctor", SHORT, terminal="stderr") as command:
        assert command.wait() == 0
        assert any(b"running: " in line for line in command.err)
