"""Runs one of npm's EventSource clients in Node, and collects the events that it receives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.child_process import ChildProcess
from tests.support.waiting import wait_for

MODULES = Path(__file__).parents[2] / ".cache" / "node" / "node_modules"
_SCRIPT = Path(__file__).with_name("follow.mjs")


@dataclass(frozen=True, slots=True)
class Received:
    """One event that a listener of a JavaScript client received.

    Attributes:
        type: `open`, `error`, `message`, or the event's own.
        data, id: of an event; None for `open` and `error`.
        state: the client's readyState in that moment: 0 connecting, 1 open, 2 closed for good.
    """

    type: str
    data: str | None
    id: str | None
    state: int


class NodeClient(ChildProcess):
    """Follows `url` with the EventSource of an npm package, and listens for `message` and for `types`."""

    def __init__(self, node: str, package: str, url: str, types: tuple[str, ...] = ()) -> None:
        super().__init__([node, str(_SCRIPT), str(MODULES), package, url, *types], stderr=None)

    @property
    def received(self) -> list[Received]:
        """Everything that its listeners received so far, in order."""
        lines = self.printed.rpartition(b"\n")[0].splitlines()
        return [Received(**json.loads(line)) for line in lines]

    @property
    def events(self) -> list[Received]:
        """The same without `open` and `error`."""
        return [each for each in self.received if each.type not in ("open", "error")]

    def wait_for_events(self, count: int) -> list[Received]:
        """The events, once there are `count`."""
        wait_for(lambda: len(self.events) >= count, f"{count} events, of which came {self.events}", 30)
        return self.events
