"""The kept commands that an instance knows, in the order in which they expire.

Rules: values only; the caller passes the time. Bounded in number and bytes: those that expire first make room (I4).
"""

from __future__ import annotations

from sortedcontainers import SortedDict

EXPIRED_PER_ADD = 2
"""How many expired commands go for each that comes, so that they are few however fast others come."""


class KeptCommands:
    """Commands with the times until which they are kept, in seconds since 1970.

    Attributes:
        bytes: of their texts.
    """

    def __init__(self, max_number: int, max_bytes: int) -> None:
        self.bytes = 0
        self._max_number = max_number
        self._max_bytes = max_bytes
        self._until: dict[str, float] = {}
        self._due: SortedDict[tuple[float, str], None] = SortedDict()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, command: str) -> bool:
        return command in self._until

    def add(self, command: str, until: float, now: float) -> None:
        """Keep `command` until `until`, or until the later time that was given before."""
        before = self._until.get(command)
        if before is not None:
            if until <= before:
                return
            self._remove(command)
        self._until[command] = until
        self._due[until, command] = None
        self.bytes += len(command)
        self.remove_expired(now, EXPIRED_PER_ADD)
        while len(self) > self._max_number or self.bytes > self._max_bytes:
            self._remove_first()

    def remove_expired(self, now: float, most: int) -> None:
        """Remove the commands that have expired, at most so many."""
        while most and self._due and self._due.peekitem(0)[0][0] <= now:
            self._remove_first()
            most -= 1

    def valid(self, now: float) -> dict[str, float]:
        """Those that have not expired, with their times."""
        return {command: until for command, until in self._until.items() if until > now}

    def _remove_first(self) -> None:
        self._remove(self._due.peekitem(0)[0][1])

    def _remove(self, command: str) -> None:
        del self._due[self._until.pop(command), command]
        self.bytes -= len(command)
