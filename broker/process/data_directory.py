"""The directory of `--data`: created, made private, locked for one broker, and marked while its server runs.

Rules: files only. Events may be confidential, so the mode becomes 0700. The directory must be new, empty or a broker's already:
`--data /home/me` must not make a home directory private.

The mark is a file that contains the machine's boot id. It is removed after the server has stopped in order. If it exists at the
next start, the server was killed or the machine went down, and the boot id shows which. A killed process loses nothing that it
has written; a machine that loses power loses all writes that had not reached its disk.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from broker.process.setup import StartError

LOCK_FILE = "lock"
RUNNING_FILE = "running"
SEEN_DIRECTORY = "seen"
"""Holds the ids that the workers have seen. If all are killed with the server, the next workers learn that it lost events."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # on Linux
LOCK_TIMEOUT_SECONDS = 2.0
"""After a broker is killed, its Valkey server holds the lock until it has written everything."""
POLL_SECONDS = 0.02
READ_BYTES = 1 << 16


class DataDirectory:
    """A locked data directory; `close` unlocks it.

    Attributes:
        path: absolute; symbolic links are not resolved.
        lock_descriptor: the lock is held as long as any process has this descriptor open.
        lost_power: whether the machine stopped while the server ran, so that the server's last writes may be missing. Stays
            true for later starts until `mark_running` is called.

    Raises:
        StartError: the directory can't be created, belongs to another user, holds other files or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            _make_private(self.path)
            self.lock_descriptor = os.open(
                self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            is_file = isinstance(error, FileExistsError | NotADirectoryError)
            why = "it is not a directory" if is_file else error.strerror
            raise StartError(f"data: can't use {self.path}: {why}") from None
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not _try_lock(self.lock_descriptor):
            if time.monotonic() > deadline:
                os.close(self.lock_descriptor)
                raise StartError(f"data: another broker uses {self.path}")
            time.sleep(POLL_SECONDS)
        (self.path / SEEN_DIRECTORY).mkdir(mode=0o700, exist_ok=True)
        self._mark = self.path / RUNNING_FILE
        boot_id = _boot_id()
        self.lost_power = self._mark.exists() and (not boot_id or self._mark.read_text("utf-8") != boot_id)

    def cut_zeros(self) -> None:
        """Remove the zeros that a power cut may have left at the end of the server's append-only files.

        The server ignores an incomplete command there, but not zeros. No command ends with a zero.
        """
        for path in self.path.glob("appendonlydir/*.aof"):
            with path.open("r+b") as file:
                end = file.seek(0, os.SEEK_END)
                while end:
                    start = max(0, end - READ_BYTES)
                    file.seek(start)
                    end = start + len(file.read(end - start).rstrip(b"\0"))
                    if end > start:
                        break
                file.truncate(end)

    def mark_running(self) -> None:
        """Mark the directory; call before the server writes. The mark is on disk afterwards."""
        written = self.path / f"{RUNNING_FILE}.new"
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, _boot_id().encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        written.replace(self._mark)
        self._sync()

    def mark_stopped(self) -> None:
        """Remove the mark; call once the server has ended and everything that it wrote is on disk."""
        self._mark.unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unlock the directory."""
        os.close(self.lock_descriptor)


def _boot_id() -> str:
    """An id that is new after each start of the machine; "" if the system doesn't provide one."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise StartError(f"data: {path} belongs to another user")
    if not (path / LOCK_FILE).exists() and any(path.iterdir()):
        raise StartError(f"data: {path} contains other files; name a new or empty directory")
    path.chmod(0o700)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
