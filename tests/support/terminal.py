"""A terminal with bash in it: text is pasted into it, and Ctrl-C pressed, as a person does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

from tests.support.waiting import wait_for

PASTE_SECONDS = 240
EXIT_SECONDS = 30
FAILED = re.compile(r"@failed (.*)@")
_SETUP = """\
stty -echo
set -o pipefail
trap 'printf "@failed %s@\\n" "$BASH_COMMAND"' ERR
"""


class Terminal:
    """A bash that runs interactively on a pseudo-terminal; a context manager.

    Attributes:
        output: everything that the terminal has shown. A command that fails adds a line that matches `FAILED`.
        busy: whether a command of the last paste may still be running.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.output = ""
        self.busy = False
        self._pastes = 0
        self._terminal, inside = os.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            cwd=folder,
            env={**environment, "PS1": "", "PS2": "", "TERM": "dumb"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        self.paste(_SETUP)
        return self

    def __exit__(self, *_: object) -> None:
        """Ctrl-C if a command runs, then exit; what still runs after that is killed."""
        try:
            self.interrupt(EXIT_SECONDS)
            self._type("exit\n")
            self._process.wait(EXIT_SECONDS)
        except (AssertionError, subprocess.TimeoutExpired):
            os.killpg(os.tcgetpgrp(self._terminal), signal.SIGKILL)
            self._process.kill()
            self._process.wait(EXIT_SECONDS)
        self._reader.join(EXIT_SECONDS)
        os.close(self._terminal)

    def paste(self, text: str, until: str = "", seconds: float = PASTE_SECONDS) -> str:
        """Paste lines and return the output from then on.

        Args:
            until: a regular expression. Return when the output matches, with the command still running. Without it, wait
                until all commands are done.
        """
        assert not self.busy, f"a command is still running:\n{self.output}"
        start = len(self.output)
        self._pastes += 1
        mark = f"@done {self._pastes}@"
        self.busy = True
        self._type(text)
        if not until:
            self._type(f"printf '@done %s@\\n' {self._pastes}\n")  # the mark itself isn't in this text
        awaited = (
            f"{until}|{FAILED.pattern}" if until else re.escape(mark)
        )  # a command that failed will show nothing more
        try:
            wait_for(partial(self.shows, awaited, start), f"{until or mark!r} after {text!r}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, in: {self.output[start:]}") from None
        self.busy = bool(until)
        return self.output[start:]

    def shows(self, pattern: str, start: int = 0) -> bool:
        """Whether the output from offset `start` on matches a regular expression."""
        return re.search(pattern, self.output[start:]) is not None

    def interrupt(self, seconds: float = PASTE_SECONDS) -> None:
        """If a command runs, press Ctrl-C, and wait until it has ended. At the prompt, bash might discard the next input."""
        if not self.busy:
            return
        self._type("\x03")
        self.busy = False
        self.paste("\n", seconds=seconds)

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:  # EIO: nothing has the other side open any more
                return
            if not data:
                return
            self.output += data.decode(errors="replace").replace("\r\n", "\n")
