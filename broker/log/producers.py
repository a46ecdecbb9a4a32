"""How far the producers of a topic have come: repeated events count once, and a hole in a sequence is refused.

Rules: a value in memory. A producer numbers the events of its stream from 1. A topic remembers `MAX_PRODUCERS`, as long
as its own record; the one that published longest ago is forgotten first. A forgotten producer counts as new: the broker
expects number 1 from it.
"""

from __future__ import annotations

from broker.errors import OutOfOrder

MAX_PRODUCERS = 16


class ProducerSequences:
    """The producers of one topic."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[str, int] = {}  # the last to publish comes last

    def known(self, name: str, first: int, count: int) -> int:
        """How many of `count` events, numbered from `first`, are published already.

        Raises:
            OutOfOrder: events before `first` are missing.
        """
        expected = self._next.get(name, 1)
        if first > expected:
            raise OutOfOrder(expected)
        return min(count, expected - first)

    def advance(self, name: str, expected: int) -> None:
        """Expect number `expected` as the next event of `name`."""
        self._next.pop(name, None)
        self._next[name] = expected
        if len(self._next) > MAX_PRODUCERS:
            del self._next[next(iter(self._next))]
