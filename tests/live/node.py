"""Runs one of npm's EventSource clients in Node, and collects what it tells."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import wait_for

MODULES = Path(__file__).parents[2] / ".cache" / "node" / "node_modules"
_SCRIPT = Path(__file__).with_name("follow.mjs")
STOP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that a JavaScript client told its listeners.

    Attributes:
        type: `open`, `error`, `message`, or the event's own.
        data, id: of an event; None for `open` and `error`.
        state: the client's readyState in that moment: 0 connecting, 1 open, 2 closed for good.
    """

    type: str
    data: str | None
    id: str | None
    state: int


class NodeClient:
    """Follows `url` with the EventSource of an npm package, listening for `types` beside `message`; a context manager.

    Attributes:
        told: all it told so far, in order.
    """

    def __init__(self, node: str, package: str, url: str, types: tuple[str, ...] = ()) -> None:
        self._command = [node, str(_SCRIPT), str(MODULES), package, url, *types]
        self.told: list[Told] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.told.append(Told(**json.loads(line)))

    @property
    def events(self) -> list[Told]:
        """What it told but for `open` and `error`."""
        return [told for told in self.told if told.type not in ("open", "error")]

    def wait_for_events(self, count: int) -> list[Told]:
        """The events, once there are `count`."""
        wait_for(lambda: len(self.events) >= count, f"{count} events, of which came {self.events}", 30)
        return self.events
