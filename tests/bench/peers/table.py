"""The table: medians, ratios, and whether the goals were reached.

Rules: figures in, text out. A cell shows the peer's median, and the broker's as a multiple of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from tests.bench.peers.loads import ROWS, TIMES, Row

Figures = Mapping[str, Mapping[str, Sequence[float]]]
"""The figures of all rounds, by row name and server name."""


def header(servers: Sequence[str]) -> list[str]:
    return ["load", *servers, "to reach", "reached"]


def lines(figures: Figures, servers: Sequence[str]) -> list[list[str]]:
    """The cells of every row that has figures."""
    return [cells(row, figures[row.name], servers) for row in ROWS if figures.get(row.name)]


def cells(row: Row, figures: Mapping[str, Sequence[float]], servers: Sequence[str]) -> list[str]:
    medians = {name: statistics.median(seen) for name, seen in figures.items() if seen}
    values = [cell(row, name, medians) for name in servers]
    return [row.title, *values, "; ".join(goal.text for goal in row.goals), verdict(row, medians)]


def cell(row: Row, name: str, medians: Mapping[str, float]) -> str:
    if name not in medians:
        return "—"
    value = f"{number(medians[name])} {row.unit}".replace(" /s", "/s")
    if name == "broker" or "broker" not in medians or not medians[name]:
        return value
    return f"{value} ({medians['broker'] / medians[name]:.2f} {TIMES})"


def number(value: float) -> str:
    """At least three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(row: Row, medians: Mapping[str, float]) -> str:
    if "broker" not in medians:
        return "not measured"
    held = [goal.held(medians) for goal in row.goals]
    words = {True: "yes", False: "NO", None: "not measured"}
    return words[held[0]] if len(set(held)) == 1 else "; ".join(words[one] for one in held)


def markdown(figures: Figures, servers: Sequence[str]) -> str:
    """The table for a README."""
    rule = ["---"] * len(header(servers))
    return "\n".join(f"| {' | '.join(row)} |" for row in (header(servers), rule, *lines(figures, servers)))


def drawn(figures: Figures, servers: Sequence[str], caption: str) -> Table:
    """The table for a terminal."""
    table = Table(*header(servers), caption=caption, show_lines=True)
    for row in lines(figures, servers):
        table.add_row(*row)
    return table
