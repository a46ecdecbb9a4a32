"""Counts the publishes to each topic on this instance, on demand.

Rules: off, it costs a publish one look at `is_on`. On, it has a bounded number of topics; those that come when it is full are
counted after the next turn of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from broker.stores.base import Item

ON_SECONDS = 30.0
WINDOW_SECONDS = 5.0
MAX_TOPICS = 200_000


class TopicMeter:
    """Counts events and bytes by topic, over the last 5 to 10 seconds.

    Args:
        now: loop time.

    Attributes:
        is_on: whether `add` is to be called.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.is_on = False
        self._now = now
        self._on_until = 0.0
        self._counts: dict[str, list[int]] = {}  # events and bytes, of this window
        self._before: dict[str, list[int]] = {}  # of the window before it
        self._since = self._before_since = 0.0

    def keep_on(self) -> None:
        """Count from now on, for `ON_SECONDS`."""
        now = self._now()
        if not self.is_on:
            self.is_on = True
            self._counts, self._before = {}, {}
            self._since = self._before_since = now
        self._on_until = now + ON_SECONDS

    def turn(self) -> None:
        """Begin a new window if it is time, or stop; called about once a second."""
        if not self.is_on:
            return
        now = self._now()
        if now >= self._on_until:
            self.is_on = False
            self._counts, self._before = {}, {}
        elif now - self._since >= WINDOW_SECONDS:
            self._before, self._counts = self._counts, {}
            self._before_since, self._since = self._since, now

    def add(self, items: Sequence[Item], known: int) -> None:
        """`items` were published; the first `known` had been before."""
        counts = self._counts
        for topic, lines in items[known:] if known else items:
            count = counts.get(topic)
            if count is not None:
                count[0] += 1
                count[1] += len(lines)
            elif len(counts) < MAX_TOPICS:
                counts[topic] = [1, len(lines)]

    def topics(self) -> Sequence[str]:
        """The topics that have a rate, some of them twice."""
        return [*self._counts, *self._before]

    def rates(self, topics: Sequence[str]) -> Iterator[tuple[float, float]]:
        """Events and bytes a second of each of `topics`."""
        seconds = max(1.0, self._now() - self._before_since)
        none = [0, 0]
        for topic in topics:
            count, before = self._counts.get(topic, none), self._before.get(topic, none)
            yield (count[0] + before[0]) / seconds, (count[1] + before[1]) / seconds
