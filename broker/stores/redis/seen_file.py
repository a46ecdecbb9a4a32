"""The highest id that the store has returned to this process, in a file that outlives the process.

Each instance sends this id to the store, which detects by it that it has lost events. If all instances are killed together with
the server, the next instances read the id here. Rules: files only.

A process has its own file and locks it while it runs. The file is mapped into memory: an update needs no system call, and the
kernel keeps it however the process ends. After a power cut the content may be old, which is harmless.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from pathlib import Path

from broker.events import EventId
from broker.stores.redis.watermark import Watermark

ID_BYTES = 16
SUFFIX = ".id"


class SeenFile(Watermark):
    """A watermark kept in a file of `directory`. It starts at the highest id in all files there, of running and ended processes."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        found = {path: _read(path) for path in directory.glob(f"*{SUFFIX}")}
        self._map = _make_file(directory)
        self.raise_to(max(found.values(), default=0))
        for path in found:
            _remove_if_unused(path)

    def raise_to(self, value: EventId) -> None:
        if value > self.value:
            super().raise_to(value)
            self._map[:] = value.to_bytes(ID_BYTES)


def _make_file(directory: Path) -> mmap.mmap:
    path = directory / f"{secrets.token_hex(8)}{SUFFIX}"
    unlocked = path.with_suffix(".new")  # no other process removes it before it is locked
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # held until the process ends
    os.write(descriptor, bytes(ID_BYTES))
    unlocked.rename(path)
    return mmap.mmap(descriptor, ID_BYTES)


def _read(path: Path) -> EventId:
    """The id in a file; 0 if another process has removed the file, or if a power cut left it empty."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    return int.from_bytes(content) if len(content) == ID_BYTES else 0


def _remove_if_unused(path: Path) -> None:
    """Remove the file of a process that has ended."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # its process lives
    finally:
        os.close(descriptor)
