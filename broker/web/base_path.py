"""The path that all URLs begin with (`--base-path`), behind a proxy that passes it on.

Rules: an adapter takes it off a request, so that routes, guard and handlers know only the paths of the contract. The page needs
no prefix either: its links are relative.
"""

from __future__ import annotations

from broker.web.errors import problem
from broker.web.guard import EXEMPT
from broker.web.values import Answer


class BasePath:
    """A prefix such as `/events`; "" for none."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._start = prefix + "/"

    def below(self, path: str) -> str | None:
        """`path` without the prefix; None if it lies outside. Probes and metrics are at the root too."""
        if not self.prefix:
            return path
        if path.startswith(self._start):
            return path[len(self.prefix) :]
        return path if path in EXEMPT else None

    def outside(self, method: str, path: str, query: str) -> Answer:
        """The answer for a path outside: the prefix itself leads to the page, with its query; all else is 404."""
        if path == self.prefix and method in ("GET", "HEAD"):
            location = f"{self._start}?{query}" if query else self._start
            return Answer(308, headers={"Location": location, "Cache-Control": "no-store"})
        return self.not_found()

    def not_found(self) -> Answer:
        """The answer to a path without a route."""
        return problem(
            "not-found", f"Nothing exists at this path; topics are at {self._start}topics/{{topic}}."
        )


NO_BASE_PATH = BasePath("")
