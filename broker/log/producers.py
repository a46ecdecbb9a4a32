"""How far the producers of a topic have come: a repeated part of a stream counts once, and a hole is told.

Rules: a value in memory. A producer numbers the events of its stream from 1. At most `MOST_PRODUCERS` are remembered by topic, and
as long as the topic's record: whoever has published longest ago is forgotten first, and is then as one that never came, so
that it is asked to begin at 1. It does better to go on under another name.
"""

from __future__ import annotations

from broker.errors import OutOfOrder

MOST_PRODUCERS = 16


class ProducerSequences:
    """Those of one topic."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[str, int] = {}  # whoever published last is at the end

    def known(self, name: str, first: int, count: int) -> int:
        """How many of `count` events, of which the first has the number `first`, are published already.

        Raises:
            OutOfOrder: events before the first one are missing.
        """
        expected = self._next.get(name, 1)
        if first > expected:
            raise OutOfOrder(expected)
        return min(count, expected - first)

    def advance(self, name: str, following: int) -> None:
        """The next event of `name` is to have the number `following`."""
        self._next.pop(name, None)
        self._next[name] = following
        if len(self._next) > MOST_PRODUCERS:
            del self._next[next(iter(self._next))]
