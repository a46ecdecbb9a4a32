"""Servers of a chaos run. A test can disturb their clock, their disk and their files.

The clock comes from libfaketime if that is installed and works with the server's program: it works with Valkey, but not with
Debian's Redis. The disk is a small tmpfs if mounting is allowed. Otherwise a snapshot that can't be written makes the server refuse
writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.child_process import ChildProcess
from tests.support.redis_servers import START_SECONDS, Server
from tests.support.waiting import wait_for

FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")
SHARED_MEMORY = Path("/dev/shm")
DISK_BYTES = 256 << 20
REFUSES_IF_SNAPSHOT_FAILS = "save 100000 100000000"
"""With any `save` line, a server refuses writes after a failed snapshot."""


class ChaosServer(Server):
    """A data server.

    Args:
        own_disk: give it a file system of its own, if that is allowed.

    Attributes:
        lock: held by whatever disturbs it.
        has_clock: whether `move_clock` works.
        has_disk: whether `full_disk` works.
    """

    def __init__(
        self,
        directory: Path,
        program: str,
        *config: str,
        tcp: bool = False,
        replica_of: Server | None = None,
        own_disk: bool = False,
    ) -> None:
        self.has_disk = own_disk and _mount(directory)
        super().__init__(
            directory, program, *config, REFUSES_IF_SNAPSHOT_FAILS, tcp=tcp, replica_of=replica_of
        )
        self.lock = asyncio.Lock()
        self._clock = directory.with_name(f"{directory.name}-clock")
        self._environment = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.has_clock = FAKETIME.exists() and "valkey" in Path(program).name and self._clock_works()

    def _clock_works(self) -> bool:
        self.move_clock(0)
        command = [self.program, "--version"]
        done = subprocess.run(command, env=self._environment, capture_output=True, check=False)
        return done.returncode == 0 and not done.stderr

    def move_clock(self, seconds: float) -> None:
        """Let its clock be off by this much; it may run."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+f}\n")
        new.rename(self._clock)

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Its file system is full meanwhile."""
        assert self.has_disk, "never the machine's own"
        ballast = self.directory / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                _fill(file.write)
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def unwritable_snapshot(self) -> Iterator[None]:
        """It refuses writes meanwhile: a directory stands where its snapshot would be written."""
        obstacle = self.directory / "dump.rdb"
        obstacle.unlink(missing_ok=True)
        obstacle.mkdir()
        try:
            self._take_snapshot("err")
            yield
        finally:
            obstacle.rmdir()
            self._take_snapshot("ok")

    def _take_snapshot(self, expected: str) -> None:
        with self.client() as client:
            client.bgsave()

            def is_taken() -> bool:
                info = client.info("persistence")
                return not info["rdb_bgsave_in_progress"] and bool(info["rdb_last_bgsave_status"] == expected)

            wait_for(is_taken, f"the snapshot: {expected}")

    def start(self) -> None:
        self._last = ChildProcess(
            [self.program, str(self._config), *self._arguments],
            cwd=self.directory,
            env=self._environment if self.has_clock else {},
        )
        self._last.wait_until_up(self._answers, START_SECONDS)

    def kill(self) -> None:
        pid = self.pid
        super().kill()
        for left in (SHARED_MEMORY / f"faketime_shm_{pid}", SHARED_MEMORY / f"sem.faketime_sem_{pid}"):
            left.unlink(missing_ok=True)  # else libfaketime ends a later process with the same id

    def close(self) -> None:
        """End it, and give back its file system."""
        self.__exit__(None, None, None)
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self.directory)], check=True)
            self.has_disk = False


def _mount(directory: Path) -> bool:
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "chaos", str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _fill(write: Callable[[bytes], int]) -> None:
    """Write until not even a single byte fits."""
    size = 1 << 20
    while size:
        try:
            write(b"." * size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size //= 2


def cut_append_only_file(directory: Path, lost_bytes: Callable[[int], int]) -> int:
    """Cut the end off a stopped server's append-only file, as a power cut does. Returns how many bytes are gone.

    `lost_bytes` gets the size of the part that can be cut.
    """
    (newest,) = sorted(directory.glob("appendonlydir/*.incr.aof"))[-1:]
    size = newest.stat().st_size
    lost = min(size, lost_bytes(size))
    with newest.open("r+b") as file:
        file.truncate(size - lost)
    return lost


def append_only_size(directory: Path) -> int:
    """The size of the newest append-only file."""
    files = sorted(directory.glob("appendonlydir/*.incr.aof"))
    return files[-1].stat().st_size if files else 0
