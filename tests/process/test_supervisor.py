"""Starting and stopping a broker with several workers, as an operator sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.process.streams import read_event, read_to_end, subscribe
from tests.support.broker_process import BrokerProcess, refused_start, run_serve
from tests.support.http import exchange, request
from tests.support.ports import free_port
from tests.support.process_tree import descendants, is_running, workers
from tests.support.waiting import wait_for


def test_start_line_is_printed_once_with_url_store_and_number_of_workers(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        (line,) = (line for line in broker.output.splitlines() if "listening" in line)
        where = re.escape(store)
        assert re.fullmatch(
            rf"broker: listening on http://127\.0\.0\.1:\d+, store: redis at {where}, workers: 2", line
        )
        assert len(workers(broker)) == 2
        assert broker.terminate() == 0


def test_one_worker_without_data_needs_no_other_process(broker: BrokerProcess) -> None:
    assert not descendants(broker.pid)
    assert "workers" not in broker.output


def test_sigterm_drains_all_workers_and_exits_0(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, drain_seconds=1) as broker:
        streams = [subscribe(broker) for _ in range(30)]
        pids = workers(broker)
        event_id = broker.publish("news", "last")
        for stream in streams:  # one that ends before would get it after its reconnect
            assert event_id.encode() in read_event(stream)
        assert broker.terminate() == 0
        for stream in streams:
            body = read_to_end(stream)
            assert re.search(rb"retry: \d+\n$", body), body
        assert not any(map(is_running, pids))


def test_a_worker_that_has_drained_leaves_no_connection_waiting(store: str) -> None:
    """Its sockets are closed, so that the kernel gives new connections to those that still drain."""
    first = free_port(2)
    with (
        BrokerProcess(workers=2, redis_url=store, drain_seconds=100, metrics_port=first) as broker,
        ExitStack() as stack,
    ):

        def streams_of(worker: int) -> int:
            answer = exchange(first + worker, request("GET", "/metrics"))
            return int(re.findall(rb"^broker_subscribers (\d+)", answer.body, re.MULTILINE)[0])

        while streams_of(1) < 4:  # the last of them ends after a minute
            with ExitStack() as opened:
                opened.enter_context(subscribe(broker))
                if not streams_of(0):
                    stack.push(opened.pop_all())
            wait_for(lambda: not streams_of(0), "the first worker has no stream")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: len(workers(broker)) == 1, "the worker without streams ends")
        for number in range(30):
            broker.publish("news", str(number))
        assert broker.terminate() == 0


def test_a_second_sigterm_ends_all_workers_at_once(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store, drain_notice_seconds=600) as broker:
        pids = workers(broker)
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: broker.output.count("draining") >= 3, "all begin to drain")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end")
        assert broker.terminate() == 0
        assert not any(map(is_running, pids))


def test_ctrl_c_reaches_only_the_supervisor(store: str) -> None:
    """A terminal signals every process of its session; a worker that got two signals would end its drain at once."""
    with BrokerProcess(workers=2, redis_url=store) as broker:
        assert len({os.getsid(pid) for pid in (*workers(broker), broker.pid)}) == 3


def test_workers_do_not_outlive_a_killed_supervisor(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        pids = workers(broker)
        broker.kill()
        wait_for(lambda: not any(map(is_running, pids)), "they end")


def test_a_port_in_use_is_reported_in_one_line(store: str, broker: BrokerProcess) -> None:
    line = refused_start("--port", str(broker.port), "--workers", "2", "--redis-url", store)
    assert "can't listen" in line
    assert str(broker.port) in line


def test_a_port_of_another_brokers_workers_is_in_use(store: str) -> None:
    with BrokerProcess(workers=2, redis_url=store) as broker:
        done = run_serve("--port", str(broker.port), "--workers", "2", "--redis-url", store)
        assert done.returncode == 1
        assert "can't listen" in done.stderr


def test_an_error_of_all_workers_is_reported_in_one_line(store: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    flags = ("--port", "0", "--workers", "3", "--redis-url", store)
    line = refused_start(*flags, "--tls-cert", missing, "--tls-key", missing)
    assert "tls_cert" in line


def test_sigterm_during_the_start_ends_it() -> None:
    """The store can't be reached, so the workers wait for it."""
    flags = ["--port=0", "--workers=2", "--redis-url=unix:///nowhere/s"]
    with subprocess.Popen([sys.executable, "-m", "broker", "serve", *flags]) as process:
        wait_for(lambda: len(descendants(process.pid)) == 2, "workers")
        process.terminate()
        assert process.wait(20) == 0
