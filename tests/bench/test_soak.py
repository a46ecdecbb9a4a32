"""The soak in its short form, and the lines that it judges by."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.soak.plot import draw
from tests.bench.soak.run import soak
from tests.bench.soak.samples import MEMORY, QUANTITIES, Samples, growing
from tests.bench.soak.trend import fit

MINUTES = 3


def samples_of(memory: Callable[[float], float], number: int = 40) -> Samples:
    """A sample a minute; all but the memory stays as it is, with some noise."""
    chance = random.Random(1)
    made = Samples()
    for minute in range(number):
        found = {quantity: 20 + chance.gauss(0, 0.3) for quantity in QUANTITIES}
        made.add(60.0 * minute, {**found, MEMORY: memory(minute) + chance.gauss(0, 0.5)})
    return made


def test_a_line_has_its_slope_and_the_slopes_error() -> None:
    chance = random.Random(2)
    times = [10.0 * number for number in range(200)]
    trend = fit(times, [5 + 0.02 * time + chance.gauss(0, 1) for time in times])
    assert abs(trend.slope - 0.02) < 3 * trend.error < 0.001
    assert trend.growth == pytest.approx(trend.slope * 1990)


def test_too_few_samples_make_no_line() -> None:
    with pytest.raises(ValueError, match="3 samples are too few"):
        fit([1, 2, 3], [1, 2, 3])


def test_noise_is_no_growth() -> None:
    assert growing(samples_of(lambda _: 50)) == []


def test_growth_during_the_warm_up_is_none() -> None:
    assert growing(samples_of(lambda minute: 30 + 2 * min(minute, 10))) == []


def test_a_leak_is_found() -> None:
    (problem,) = growing(samples_of(lambda minute: 50 + 0.2 * minute))
    assert problem.startswith("resident memory grew by 5.")


def test_the_plot_has_each_quantity(tmp_path: Path) -> None:
    draw(samples_of(lambda _: 50), tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").read_text().count("per hour") >= len(QUANTITIES)


@pytest.mark.slow
@pytest.mark.exclusive
@pytest.mark.timeout(900)
async def test_nothing_grows_in_three_minutes() -> None:
    """Mixed load with each fault at least once."""
    found = await soak(MINUTES * 60)
    assert len(found.faults) == 10
    assert found.errors == []
    for kind in (
        "events received",
        "streams that came and went",
        "slow readers",
        "publishes",
        "bursts",
        "token streams",
        "orders",
        "orders refused",
        "cancels",
        "polls",
    ):
        assert found.counts[kind], kind
    assert growing(found.samples) == []
