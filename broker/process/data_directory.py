"""The place that `--data` names: whose it is, and that one broker uses it at a time.

Rules: files only; what runs there is `valkey`'s business.

It may hold what nobody else should read, so it is made private; and it is only taken where it is new, empty or a broker's,
for whoever writes `--data /home/me` by mistake wants none of that closed to others.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from broker.process.setup import StartError

LOCK = "lock"
LOCK_SECONDS = 2.0
"""For the server of a broker that was killed a moment ago, which holds the lock until it has written everything."""

LOOK_SECONDS = 0.02


class DataDirectory:
    """A directory of this broker's own, until it is closed.

    Attributes:
        path: absolute; a symbolic link in it stays one.
        lock: a descriptor; whoever has inherited it holds the lock too.

    Raises:
        StartError: it can't be made or is somebody else's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            _make_private(self.path)
            self.lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"data: can't use {self.path}: {error.strerror}") from None
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(self.lock):
            if time.monotonic() > deadline:
                os.close(self.lock)
                raise StartError(f"data: another broker uses {self.path}")
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Leave it to others."""
        os.close(self.lock)


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise StartError(f"data: {path} belongs to another user")
    if not (path / LOCK).exists() and any(path.iterdir()):
        raise StartError(f"data: {path} holds other files; name a directory that is new or empty")
    path.chmod(0o700)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
