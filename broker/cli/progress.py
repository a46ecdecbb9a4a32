"""The progress of a command on standard error: a bar, lines, or nothing. The library for bars is optional."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from broker.cli.common import say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

INSTALL = "pip install '.[bench]' in a checkout of sse-broker"


class Progress:
    """Shows nothing. A context manager, like its subclasses."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the display."""

    def begin(self, title: str, total: float | None) -> None:
        """Start a phase. `total` is the final value of `update`, or None if it is unknown."""

    def update(self, done: float, title: str | None = None) -> None:
        """`done` of the phase's `total` is complete. `title` replaces the phase's title."""


class ProgressLines(Progress):
    """One line for each phase."""

    def begin(self, title: str, total: float | None) -> None:
        size = "" if total is None else f" ({total:,.0f})"
        print(title + size, file=sys.stderr, flush=True)


class ProgressBar(Progress):
    """A bar, drawn anew for each phase."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, title: str, total: float | None) -> None:
        self._bars.reset(self._task, description=title, total=total)

    def update(self, done: float, title: str | None = None) -> None:
        self._bars.update(self._task, completed=done, description=title)


def progress_bar(command: str) -> ProgressBar | None:
    """A bar on standard error; without the library `rich`, None and a line that says how to install it."""
    try:
        from rich.console import Console  # takes 0.1 s
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        say(command, f"no progress bar, because the package rich is missing: {INSTALL}")
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return ProgressBar(Progress(*columns, console=Console(stderr=True)))
