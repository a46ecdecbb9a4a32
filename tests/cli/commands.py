"""The command `broker` in a process of its own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from tests.support.waiting import WAIT_SECONDS, wait_for

STOP_SECONDS = WAIT_SECONDS
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def environment(url: str, variables: Mapping[str, str] = NO_VARIABLES) -> dict[str, str]:
    """This process's environment, with `BROKER_URL` and `variables`, but without the broker's other settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return {**kept, "BROKER_URL": url, **variables}


def run(
    url: str, *words: str | bytes, stdin: bytes | IO[bytes] = b"", variables: Mapping[str, str] = NO_VARIABLES
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end.

    Args:
        stdin: its standard input, or a file.
        variables: of the environment, besides `BROKER_URL`.
    """
    return subprocess.run(
        [sys.executable, "-m", "broker", *words],
        input=stdin if isinstance(stdin, bytes) else None,
        stdin=None if isinstance(stdin, bytes) else stdin,
        capture_output=True,
        env=environment(url, variables),
        timeout=STOP_SECONDS,
        check=False,
    )


def run_shell(url: str, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which `broker` is the command. Every part of a pipe must succeed."""
    command = f'broker() {{ {sys.executable} -m broker "$@"; }}\n{script}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        env=environment(url),
        timeout=STOP_SECONDS,
        check=True,
    )


def without(directory: Path, *packages: str) -> dict[str, str]:
    """Variables that hide packages from a command. `directory` must exist until the command ends."""
    hidden = "".join(f"sys.modules[{package!r}] = None\n" for package in packages)
    (directory / "sitecustomize.py").write_text("import sys\n" + hidden)
    return {"PYTHONPATH": str(directory)}


class Command:
    """A running command; a context manager that kills it at the end.

    Args:
        terminal: `stdout`, `stderr` or `stdin` is a terminal.
        variables: of the environment, besides `BROKER_URL`.

    Attributes:
        out: lines of standard output so far.
        err: lines of standard error so far.
    """

    def __init__(
        self, url: str, *words: str, terminal: str = "", variables: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        self.out: list[bytes] = []
        self.err: list[bytes] = []
        ours, theirs = pty.openpty() if terminal else (-1, -1)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "broker", *words],
            env={**environment(url, variables), "TERM": "xterm", "COLUMNS": "100"},
            stdin=theirs if terminal == "stdin" else subprocess.PIPE,
            stdout=theirs if terminal == "stdout" else subprocess.PIPE,
            stderr=theirs if terminal == "stderr" else subprocess.PIPE,
        )
        self._terminal: IO[bytes] | None = None
        if terminal:
            os.close(theirs)
            self._terminal = os.fdopen(ours, "rb", buffering=0)
        self._threads = [
            threading.Thread(target=self._collect, args=(source, lines), daemon=True)
            for source, lines in (
                (self.process.stdout or self._terminal, self.out),
                (self.process.stderr or self._terminal, self.err),
            )
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _collect(source: IO[bytes] | None, lines: list[bytes]) -> None:
        assert source is not None
        try:
            while line := source.readline():
                lines.append(line.rstrip(b"\r\n"))
        except (OSError, ValueError):
            return  # a terminal's end is an error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr, self._terminal):
            if stream is not None:
                stream.close()

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def type_line(self, text: str) -> None:
        """Type a line into the terminal that is its standard input."""
        assert self._terminal is not None
        os.write(self._terminal.fileno(), text.encode() + b"\n")

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Wait for the end of the command and of its output; returns the exit status."""
        status = self.process.wait(STOP_SECONDS)
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        return status

    def has_out(self, count: int) -> None:
        """Wait for `count` lines of standard output."""
        wait_for(lambda: len(self.out) >= count or self.process.poll() is not None, f"{count} lines")
        assert len(self.out) >= count, (self.out, self.err)

    def says(self, text: str) -> None:
        """Wait for `text` on standard error."""
        wait_for(lambda: any(text.encode() in line for line in self.err), f"{text!r} of {self.err}")
