"""Workers that end or are replaced, as an operator and connected clients see it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trustme

from broker.sse import Decoder
from tests.process.followers import following
from tests.process.scraping import first_answer
from tests.process.streams import FAST_RECONNECTS, subscribe
from tests.support.broker_process import BrokerProcess
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.process_tree import worker_of, workers
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, wait_for


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


async def test_a_killed_worker_restarts_and_its_subscribers_miss_nothing(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, **FAST_RECONNECTS) as broker:
        async with following(broker.url) as followers:
            await followers.more()
            for _ in range(3):
                victim = workers(broker)[0]
                os.kill(victim, signal.SIGKILL)
                await followers.more()
                await asyncio.to_thread(wait_for, partial(_was_restarted, broker, victim), "a new worker")
            await followers.complete()
        wait_for(lambda: "restarting it" in broker.output, "the line in the output")
        assert broker.terminate() == 0


def _was_restarted(broker: BrokerProcess, victim: int) -> bool:
    return victim not in workers(broker) and len(workers(broker)) == 2


async def test_sighup_restarts_all_workers_and_no_client_misses_an_event(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, **FAST_RECONNECTS) as broker:
        former = workers(broker)
        async with following(broker.url) as followers:
            await followers.more()
            broker.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                wait_for, lambda: "rolling restart complete" in broker.output, "the rolling restart"
            )
            await followers.more()
            await followers.complete()
            assert followers.statuses.count(201) == len(followers.published)
        assert len(workers(broker)) == 2
        assert not set(former) & set(workers(broker))
        assert "ERROR" not in broker.output
        assert broker.terminate() == 0


def test_a_queued_connection_is_accepted_by_the_successor(store: str) -> None:
    """The socket and its queue outlive the worker."""
    with BrokerProcess(workers=2, redis_url=store, **FAST_RECONNECTS) as broker, ExitStack() as stack:
        pids = workers(broker)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT_SECONDS))
            for _ in range(20)
        ]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for connection in waiting:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_workers_run_on_if_their_successors_can_not_start(store: str, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    with _https(certificate, workers=2, redis_url=store) as broker:
        pids = workers(broker)
        certificate.unlink()
        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: "rolling restart stopped: tls_cert" in broker.output, "the refusal")
        assert workers(broker) == pids


def test_a_worker_that_keeps_failing_is_restarted_with_growing_delays(store: str, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    with _https(certificate, workers=2, redis_url=store) as broker:
        text = certificate.read_bytes()
        certificate.unlink()
        victim, other = workers(broker)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: broker.output.count("can't restart a worker") >= 2, "attempts")
        assert workers(broker) == [other] or len(workers(broker)) == 2  # one that is about to fail
        certificate.write_bytes(text)
        wait_for(lambda: re.search(r"worker \d+ is listening", broker.output), "it is replaced")
        assert broker.terminate() == 0


def _https(certificate: Path, **settings: object) -> BrokerProcess:
    made = trustme.CA().issue_cert("127.0.0.1")
    key = certificate.with_name("key.pem")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    return BrokerProcess(tls_cert=certificate, tls_key=key, **settings)


def test_each_worker_has_its_own_metrics_port_which_its_successor_takes_over(store: str) -> None:
    first = free_port(2)
    with BrokerProcess(
        workers=2, redis_url=store, metrics_port=first, jwt_secrets=[HMAC.material], **FAST_RECONNECTS
    ) as broker:
        pids = set(workers(broker))
        ports = (first, first + 1)
        assert [exchange(port, request("GET", "/metrics")).status for port in ports] == [200, 200]
        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: "rolling restart complete" in broker.output, "the rolling restart")
        assert not pids & set(workers(broker))
        assert [exchange(port, request("GET", "/metrics")).status for port in ports] == [200, 200]
        assert exchange(broker.port, request("POST", "/topics/a", body=b"x")).status == 401, (
            "workers know the keys"
        )
        good = f"Authorization: Bearer {HMAC.token(['a'])}"
        assert exchange(broker.port, request("POST", "/topics/a", good, body=b"x")).status == 201


def _sample(text: str, name: str) -> float:
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def _metrics(broker: BrokerProcess, query: str = "") -> str:
    answer = exchange(broker.port, request("GET", f"/metrics{query}"))
    assert answer.status == 200, answer
    return answer.body.decode()


def test_one_scrape_answers_for_all_workers(store: str) -> None:
    """Also for those that have ended: a sum that falls would look like a restart of everything."""
    with BrokerProcess(workers=2, redis_url=store, **FAST_RECONNECTS) as broker, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(subscribe(broker))
        for number in range(10):
            broker.publish("news", str(number))
        wait_for(lambda: _sample(_metrics(broker), "broker_delivered_events_total") == 200, "all are counted")
        text = _metrics(broker)
        assert _sample(text, "broker_subscribers") == 20
        assert _sample(text, "broker_published_events_total") == 10
        assert _sample(text, "broker_publish_acknowledged_seconds_count") == 10
        assert (
            _sample(text, 'broker_requests_total{method="POST",route="/topics/{topic}",status="201"}') == 10
        )
        assert _sample(text, "broker_store_connected") == 1
        assert _sample(text, "broker_workers") == 2
        assert _sample(text, "process_resident_memory_bytes") > 2 * (20 << 20)
        started_at = _sample(text, "process_start_time_seconds")
        own = _metrics(broker, "?workers=own")
        assert _sample(own, "broker_workers") == 1
        assert _sample(own, "broker_subscribers") < 20

        os.kill(workers(broker)[0], signal.SIGKILL)
        wait_for(lambda: _sample(_metrics(broker), "broker_workers") == 2, "the successor answers")
        text = _metrics(broker)
        assert _sample(text, "broker_published_events_total") == 10
        assert _sample(text, "broker_delivered_events_total") == 200
        broker.publish("news", "by one or the other")
        assert _sample(_metrics(broker), "broker_published_events_total") == 11

        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: "rolling restart complete" in broker.output, "the rolling restart")
        wait_for(lambda: len(workers(broker)) == 2, "only the successors run")
        text = _metrics(broker)
        assert _sample(text, "broker_workers") == 2
        assert _sample(text, "process_start_time_seconds") == started_at, (
            "to replace workers must not look like a restart"
        )
        assert _sample(text, "broker_published_events_total") == 11, (
            "a worker sends its counts before it ends"
        )
        closes = sum(
            float(value) for value in re.findall(r"^broker_closes_total\{.*\} (\S+)$", text, re.MULTILINE)
        )
        assert closes > 0, "those that were open at the restart"
        assert "ERROR" not in broker.output.replace("restarting it", "").split("SIGHUP")[1]
        assert broker.terminate() == 0


def test_a_worker_that_does_not_answer_keeps_its_counts(store: str) -> None:
    first = free_port(2)
    with BrokerProcess(
        workers=2, redis_url=store, worker_timeout_seconds=0, metrics_port=first, own_timeouts=True
    ) as broker:
        for number in range(10):
            broker.publish("news", str(number))
        wait_for(lambda: _sample(_metrics(broker), "broker_published_events_total") == 10, "both answer")
        stopped = workers(broker)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            text = first_answer(first, first + 1)
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert _sample(text, "broker_published_events_total") == 10
        assert _sample(text, "broker_workers") == 1
        assert broker.terminate() == 0


def test_a_scrape_during_the_start_of_a_worker_disturbs_nothing(store: str) -> None:
    """A starting worker reads its settings first, and a line before its endpoint would pass for a failed start."""
    with BrokerProcess(workers=2, redis_url=store, **FAST_RECONNECTS) as broker:
        former = set(workers(broker))
        broker.send_signal(signal.SIGHUP)
        wait_for(lambda: set(workers(broker)) - former, "a successor")
        (successor,) = set(workers(broker)) - former
        os.kill(successor, signal.SIGSTOP)
        try:
            text = _metrics(broker)
        finally:
            os.kill(successor, signal.SIGCONT)
        assert _sample(text, "broker_workers") == 2, "those that listen"
        wait_for(lambda: "rolling restart complete" in broker.output, "the rolling restart")
        assert _sample(_metrics(broker), "broker_workers") == 2, "the successors"
        assert "ERROR" not in broker.output
        assert broker.terminate() == 0
