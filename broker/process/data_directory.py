"""The directory of `--data`: created, made private, and locked for one broker.

Rules: files only. Events may be confidential, so the mode becomes 0700. The directory must be new, empty or a broker's already:
`--data /home/me` must not make a home directory private.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from broker.process.setup import StartError

LOCK_FILE = "lock"
LOCK_TIMEOUT_SECONDS = 2.0
"""After a broker is killed, its Valkey server holds the lock until it has written everything."""
POLL_SECONDS = 0.02


class DataDirectory:
    """A locked data directory; `close` unlocks it.

    Attributes:
        path: absolute; symbolic links are not resolved.
        lock_descriptor: the lock is held as long as any process has this descriptor open.

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
            raise StartError(f"data: can't use {self.path}: {error.strerror}") from None
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while not _try_lock(self.lock_descriptor):
            if time.monotonic() > deadline:
                os.close(self.lock_descriptor)
                raise StartError(f"data: another broker uses {self.path}")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Unlock the directory."""
        os.close(self.lock_descriptor)


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
