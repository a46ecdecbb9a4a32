"""Latency curves as SVG: age in milliseconds (logarithmic) over percentiles, drawn by the number of nines.

Rules: Latency in, text out; no plotting library. One look for light and dark: the picture has its own background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from broker.bench.tally import Latency

WIDTH, HEIGHT = 800, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 770, 50, 360
COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490")
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999)
TINY_MS = 0.001


def svg(title: str, curves: Mapping[str, Latency]) -> str:
    """The picture. Curves without events are left out; with none at all, axes alone are drawn."""
    drawn = {name: latency for name, latency in curves.items() if latency.count}
    nines = max((len_nines(latency) for latency in drawn.values()), default=3.0)
    values = [max(value, TINY_MS) for latency in drawn.values() for _, value in latency.curve]
    low = math.floor(math.log10(min(values, default=0.1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=100.0))))
    parts = [*frame(title), *percentile_axis(nines), *age_axis(low, high)]
    for number, (name, latency) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(line([(across(p, nines), up(value, low, high)) for p, value in latency.curve], colour))
        parts.append(text(LEFT + 12, TOP + 18 + 18 * number, name, "start", colour))
    return "\n".join([*parts, "</svg>", ""])


def len_nines(latency: Latency) -> float:
    """How many nines the curve reaches before its maximum."""
    return max(1.0, -math.log10(1 - latency.curve[-2][0] / 100))


def across(percentile: float, nines: float) -> float:
    """The x of a percentile; 100 is the right edge."""
    reach = min(nines, -math.log10(max(1e-12, 1 - percentile / 100)))
    return LEFT + (RIGHT - LEFT) * reach / nines


def up(value_ms: float, low: int, high: int) -> float:
    """The y of an age."""
    return BOTTOM - (BOTTOM - TOP) * (math.log10(max(value_ms, TINY_MS)) - low) / (high - low)


def frame(title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text((LEFT + RIGHT) / 2, 28, title, "middle", "#111"),
        text((LEFT + RIGHT) / 2, HEIGHT - 12, "percentile of events", "middle", "#444"),
        text(LEFT, TOP - 10, "ms", "end", "#444"),
    ]


def percentile_axis(nines: float) -> list[str]:
    parts = []
    for percentile in PERCENTILES:
        x = across(percentile, nines)
        if -math.log10(1 - percentile / 100) <= nines:
            parts += [rule(x, TOP, x, BOTTOM), text(x, BOTTOM + 20, f"{percentile:g}", "middle", "#444")]
    return parts


def age_axis(low: int, high: int) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        y = up(10.0**power, low, high)
        parts += [rule(LEFT, y, RIGHT, y), text(LEFT - 8, y + 4, f"{10.0**power:g}", "end", "#444")]
    return parts


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def line(points: list[tuple[float, float]], colour: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def text(x: float, y: float, words: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
