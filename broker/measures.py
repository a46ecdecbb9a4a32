"""Measurements, as plain numbers that cost next to nothing to change: counts and distributions.

Rules: no metrics library; `metrics` exports them. The labels' values are declared before anything is counted, so that each
series exists from the start: `rate()` in Prometheus doesn't see the first burst of a series that begins with it. So a label has
a fixed set of values, and never what a client sends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds in seconds, for work that should take milliseconds."""


class Count:
    """A number that only grows.

    Attributes:
        value: to be added to.
    """

    __slots__ = ("help_text", "name", "value")

    def __init__(self, name: str, help_text: str) -> None:
        self.name = name
        self.help_text = help_text
        self.value = 0


class Sum:
    """A quantity that only grows.

    Attributes:
        value: to be added to.
    """

    __slots__ = ("help_text", "name", "value")

    def __init__(self, name: str, help_text: str) -> None:
        self.name = name
        self.help_text = help_text
        self.value = 0.0


class Counts:
    """Numbers that only grow, by the value of one label, or of several.

    Attributes:
        values: by the label's value; for several labels the values are joined by a space.
    """

    __slots__ = ("help_text", "labels", "name", "values")

    def __init__(self, name: str, help_text: str, labels: Sequence[str], values: Iterable[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.values: dict[str, int] = {}
        self.declare(values)

    def declare(self, values: Iterable[str]) -> None:
        """Have a series for each of `values` from now on."""
        for value in values:
            self.values.setdefault(str(value), 0)

    def add(self, value: str, number: int = 1) -> None:
        """Count `number` more. If `value` was not declared, its series begins now."""
        self.values[value] = self.values.get(value, 0) + number


class Distribution:
    """A histogram: how often a quantity fell between two neighbouring bounds.

    Args:
        bounds: ascending upper bounds, each inclusive; larger quantities fall into one more bucket.

    Attributes:
        least: the first bound.
        within_least: how often the quantity was at most `least`. It may be counted here without a call of `observe`; `sum` doesn't
            have it then.
        sum: of all that was observed.
    """

    __slots__ = ("_larger", "bounds", "help_text", "least", "name", "sum", "within_least")

    def __init__(self, name: str, help_text: str, bounds: Sequence[float] = LATENCY_SECONDS) -> None:
        self.name = name
        self.help_text = help_text
        self.bounds = tuple(bounds)
        self.least = self.bounds[0]
        self.within_least = 0
        self._larger = [0] * len(self.bounds)
        self.sum = 0.0

    def observe(self, quantity: float, number: int = 1) -> None:
        """Count `number` more, each of this quantity."""
        self.sum += quantity * number
        if quantity <= self.least:  # most are
            self.within_least += number
        else:
            self._larger[bisect_left(self.bounds, quantity) - 1] += number

    @property
    def counts(self) -> list[int]:
        """By bucket, not cumulative; one more than there are bounds."""
        return [self.within_least, *self._larger]

    @property
    def count(self) -> int:
        return sum(self.counts)

    def with_least(self, number: int) -> Distribution:
        """A copy with so many more that took no time."""
        copy = Distribution(self.name, self.help_text, self.bounds)
        copy.within_least, copy.sum = self.within_least + number, self.sum
        copy._larger = list(self._larger)
        return copy

    def quantile(self, share: float, since: Sequence[int] = ()) -> float | None:
        """Approximate quantile: the quantity below which `share` of the observations lies, as Prometheus computes it; None without any.

        With `since`, earlier `counts`, only later observations count.
        """
        counts = (
            [now - before for now, before in zip(self.counts, since, strict=True)] if since else self.counts
        )
        rank = share * sum(counts)
        if not rank:
            return None
        below = 0
        for index, bound in enumerate(self.bounds):
            if below + counts[index] >= rank:
                lowest = self.bounds[index - 1] if index else 0.0
                return lowest + (bound - lowest) * (rank - below) / counts[index]
            below += counts[index]
        return self.bounds[-1]


class Distributions:
    """Distributions of one quantity by the value of one label, or of several, as in `Counts`.

    Attributes:
        by: the distribution of each value.
    """

    __slots__ = ("_bounds", "by", "help_text", "labels", "name")

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        values: Iterable[str] = (),
        bounds: Sequence[float] = LATENCY_SECONDS,
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self.by: dict[str, Distribution] = {}
        self._bounds = bounds
        self.declare(values)

    def declare(self, values: Iterable[str]) -> None:
        """Have a distribution for each of `values` from now on."""
        for value in values:
            if value not in self.by:
                self.by[value] = Distribution(self.name, self.help_text, self._bounds)
