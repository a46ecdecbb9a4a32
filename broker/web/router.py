"""Finds the route of a request without an HTTP library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from broker.web.base_path import BasePath
from broker.web.errors import problem
from broker.web.guard import Guard
from broker.web.request_headers import Headers
from broker.web.routes import Route
from broker.web.values import NO_VALUES, Answer

_Methods = dict[str, Route]


def not_allowed(methods: Iterable[str]) -> Answer:
    """The answer to a method that the path doesn't allow; it allows `methods`."""
    allowed = ", ".join(sorted(methods))
    return problem("method-not-allowed", f"This path allows {allowed}.", headers={"Allow": allowed})


class Router:
    """The routes by path, below `base_path`. A placeholder takes one whole segment that is not empty."""

    def __init__(self, routes: Sequence[Route], guard: Guard, base_path: BasePath) -> None:
        self.base_path = base_path
        self._guard = guard
        self._fixed: dict[str, _Methods] = {}
        self._last: dict[str, tuple[str, _Methods]] = {}  # by the path before a placeholder at the end
        self._patterns: dict[tuple[str, ...], _Methods] = {}
        self._max_segments = max(route.path.count("/") + 1 for route in routes)
        for route in routes:
            methods = self._patterns.setdefault(tuple(route.path.split("/")), {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route
            prefix, _, name = route.path.rpartition("/")
            if "{" not in route.path:
                self._fixed[route.path] = methods
            elif "{" not in prefix:
                self._last[prefix] = name.strip("{}"), methods

    def check(self, method: str, path: str, query: str, headers: Headers) -> Answer | None:
        """The answer to a request for `path` that needs no handler: a preflight, or one outside the base path; else None.

        Raises:
            Forbidden: another site's page may have caused the request.
        """
        below = self.base_path.below(path)
        self._guard.check(method, below or path, headers)
        answer = self._guard.preflight(headers) if method == "OPTIONS" else None
        return self.base_path.outside(method, path, query) if answer is None and below is None else answer

    def find(self, method: str, path: str) -> tuple[Route | Answer, Mapping[str, str]]:
        """The route for `method` and `path`, below the base path and percent-encoded, with the values of the placeholders.

        Or the answer, if it needs no handler.
        """
        values = NO_VALUES
        if "%" in path:
            found = self._match(path, is_encoded=True)
        else:
            methods = self._fixed.get(path)
            prefix, _, value = path.rpartition("/")
            if methods is not None:
                found = methods, values
            elif value and prefix in self._last:
                name, methods = self._last[prefix]
                found = methods, {name: value}
            else:
                found = self._match(path)
        if found is None:
            return self.base_path.not_found(), NO_VALUES
        methods, values = found
        route = methods.get(method)
        if route is None:
            return not_allowed(methods), NO_VALUES
        return route, values

    def _match(self, path: str, *, is_encoded: bool = False) -> tuple[_Methods, Mapping[str, str]] | None:
        segments = path.split("/", self._max_segments)
        if len(segments) > self._max_segments:
            return None
        if is_encoded:
            segments = [unquote(segment) for segment in segments]
        for pattern, methods in self._patterns.items():
            if len(pattern) != len(segments):
                continue
            values = {}
            for part, segment in zip(pattern, segments, strict=True):
                if part.startswith("{") and segment:
                    values[part.strip("{}")] = segment
                elif part != segment:
                    break
            else:
                return methods, values
        return None
