"""The plot of a run: each quantity over time, with its line."""

from __future__ import annotations

from pathlib import Path

from tests.bench.soak.samples import QUANTITIES, Samples


def draw(samples: Samples, path: Path) -> None:
    """Write the plot to `path`, as SVG."""
    import matplotlib as mpl  # here, because each process that runs tests would load it, which takes a second

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "soak"  # the same run gives the same file
    mpl.rcParams["svg.fonttype"] = "none"  # texts, not their outlines
    figure, axes = pyplot.subplots(
        len(QUANTITIES), 1, sharex=True, figsize=(9, 2.1 * len(QUANTITIES)), layout="constrained"
    )
    minutes = [seconds / 60 for seconds in samples.times]
    first = samples.behind_warm_up()
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        values, trend = samples.values[quantity], samples.trend(quantity)
        axis.axvspan(0, minutes[first], color="0.93")
        axis.plot(minutes, values, ".", color="#1f5fa8", markersize=4)
        ends = (trend.start, trend.start + trend.growth)
        axis.plot((minutes[first], minutes[-1]), ends, color="#c2410c")
        unit = f", {quantity.unit}" if quantity.unit else ""
        axis.set_title(
            f"{quantity.name}{unit}: {trend.slope * 3600:+.2f} ± {trend.error * 3600:.2f} per hour",
            loc="left",
            fontsize=10,
        )
        axis.set_ylim(0, 1.25 * max(values))
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes; grey: warm-up, left out of the lines")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
