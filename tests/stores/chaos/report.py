"""The figures of a chaos run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """Faults, events and violations of a run; reports add up."""

    seed: int
    seconds: float = 0.0
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    slowest_catch_up: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, name: str, other: Report) -> None:
        """Add another run's figures; `name` marks its violations."""
        self.seconds += other.seconds
        self.rounds += other.rounds
        self.faults += other.faults
        self.counts += other.counts
        self.slowest_catch_up = max(self.slowest_catch_up, other.slowest_catch_up)
        self.violations += [f"{name}, seed {other.seed}: {violation}" for violation in other.violations]

    def line(self) -> str:
        """The most important of it in one line."""
        return (
            f"{self.seconds:.0f} s, {self.rounds} rounds, {self.faults.total()} faults, "
            f"{self.counts['acknowledged']} acknowledged, {self.counts['delivered']} delivered, "
            f"{len(self.violations)} violations"
        )

    def text(self) -> str:
        """All of it."""
        lines = [f"seed {self.seed}: {self.line()}"]
        lines += [f"  fault  {count:7} {name}" for name, count in sorted(self.faults.items())]
        lines += [f"  figure {count:7} {name}" for name, count in sorted(self.counts.items()) if count]
        lines += [
            f"  all subscribers were up to date {self.slowest_catch_up:.1f} s after a disturbance at the latest"
        ]
        return "\n".join([*lines, *self.violations])
