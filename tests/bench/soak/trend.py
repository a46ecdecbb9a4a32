"""A line through samples: whether they grow, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGMAS = 3.0
MIN_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Trend:
    """The least-squares line through samples.

    Attributes:
        slope, error: per second, with the slope's standard error.
        start: the line's value at the first sample.
        seconds: from the first sample to the last.
    """

    slope: float
    error: float
    start: float
    seconds: float

    @property
    def growth(self) -> float:
        """By how much the line rises from the first sample to the last."""
        return self.slope * self.seconds

    @property
    def growth_error(self) -> float:
        """The standard error of `growth`."""
        return self.error * self.seconds

    def exceeds(self, allowed: float) -> bool:
        """Whether the samples grow by more than `allowed`, beyond the fit's doubt."""
        return self.growth - SIGMAS * self.growth_error > allowed


def fit(times: Sequence[float], values: Sequence[float]) -> Trend:
    """The line through `values` at `times` (seconds). Raises `ValueError` for fewer than four samples."""
    if len(times) < MIN_SAMPLES:
        raise ValueError(f"{len(times)} samples are too few for a line; run longer")
    origin = times[0]
    (slope, start), covariance = np.polyfit(np.subtract(times, origin), values, 1, cov=True)
    return Trend(float(slope), float(np.sqrt(covariance[0][0])), float(start), times[-1] - origin)
