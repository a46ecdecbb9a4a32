"""The file of a unix socket when several brokers start or end at once."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.process.setup import StartError
from broker.process.unix_socket import UnixSocket
from tests.support.waiting import WAIT_SECONDS


def stale(path: Path) -> None:
    """A socket as a killed process leaves it."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_a_broker_that_starts_does_not_remove_the_socket_of_one_that_starts_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the same stale socket. Without a lock, the second removes it when the first one's is in its place."""
    path = tmp_path / "s"
    stale(path)
    first_is_made, second_removes = threading.Event(), threading.Event()
    unlink = Path.unlink
    seconds: list[Future[UnixSocket]] = []

    def unlink_late(file: Path, missing_ok: bool = False) -> None:
        if seconds:
            second_removes.set()
            first_is_made.wait(WAIT_SECONDS)
        else:
            seconds.append(pool.submit(UnixSocket, path, 0o600))
            second_removes.wait(0.5)  # with the lock it doesn't get there
        unlink(file, missing_ok)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Path, "unlink", unlink_late)
        first = UnixSocket(path, 0o600)
        first_is_made.set()
        with pytest.raises(StartError, match="another process listens"):
            seconds[0].result(WAIT_SECONDS)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        first.socket.accept()[0].close()
    first.socket.close()
    monkeypatch.undo()
    first.remove()
    assert not path.exists()


def test_a_file_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    made = UnixSocket(tmp_path / "s", 0o600)
    made.socket.close()
    (tmp_path / "s").unlink()
    made.remove()
