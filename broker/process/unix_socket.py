"""The file of a unix socket: made with its permissions, and removed at the end.

Rules: never removes another kind of file, nor a socket on which a process listens. A killed broker leaves its socket behind,
which is replaced. A lock on the directory keeps two brokers that start together from replacing each other's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.process.setup import StartError

MAX_PATH_BYTES = 107  # the size of sun_path without its final NUL
_BACKLOG = 65_535


class UnixSocket:
    """A listening unix socket. Clients can connect at once, and wait in its queue.

    Attributes:
        socket: closed by the caller, before `remove`.

    Raises:
        StartError: the path is in use or too long, or the file can't be made.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path.absolute()
        if (length := len(os.fsencode(self._path))) > MAX_PATH_BYTES:
            raise StartError(
                f"unix_socket: the path may have at most {MAX_PATH_BYTES} bytes and has {length}: {path}"
            )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _locked(self._path.parent):
                self._remove_stale()
                self.socket.bind(str(self._path))
                self._path.chmod(mode)  # connections are refused until `listen`
                self.socket.listen(_BACKLOG)
                self._identity = self._identify()
        except OSError as error:
            self.socket.close()
            raise StartError(f"unix_socket: can't listen on {path}: {error.strerror}") from None
        except StartError:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Remove the file, unless another process has replaced it."""
        try:
            with _locked(self._path.parent):
                if self._identify() == self._identity:
                    self._path.unlink()
        except OSError:  # it is gone already, or its directory is read-only now: the next start replaces it
            return

    def _identify(self) -> tuple[int, int]:
        status = self._path.lstat()
        return status.st_dev, status.st_ino

    def _remove_stale(self) -> None:
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise StartError(f"unix_socket: {self._path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full queue must not make it wait
            failure = probe.connect_ex(str(self._path))
        if failure != errno.ECONNREFUSED:
            raise StartError(f"unix_socket: another process listens on {self._path}")
        self._path.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
