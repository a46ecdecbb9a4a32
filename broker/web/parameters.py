"""Checks the names of query parameters: on a POST, a misspelt option must not be lost in silence (contract §2).

Rules: names only; each option's value is checked where it is read. GET, HEAD and DELETE ignore unknown names, for caches
and polyfills add some.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from broker.errors import InvalidParameter
from broker.web.identity import PARAMETER as TOKEN
from broker.web.values import Query

OF_PUBLISH = frozenset({"end", "end_data", "end_event", "event", "last_viewer", "reason", "retain", TOKEN})
"""Those of a publish to one topic."""
OF_PUBLISH_TO_SEVERAL = OF_PUBLISH | {"topic"}
NO_OTHERS = frozenset({TOKEN})
"""Those of a request that has no options."""

IGNORED_PREFIXES = ("_", "utm_")
"""Names that caches, libraries and links add."""
MAX_NAME_CHARS = 100
"""A longer name is cut for the comparison and for the answer."""


def check_names(query: Query, known: Collection[str]) -> None:
    """Raises `InvalidParameter` for the first name in `query` that isn't known; it suggests the nearest known one."""
    if not query.raw:
        return
    for name in query.names():
        if name not in known and not name.startswith(IGNORED_PREFIXES):
            shown = name[:MAX_NAME_CHARS]
            nearest = _nearest(shown, known)
            raise InvalidParameter(
                f"There is no query parameter {shown!r} here; the nearest one is {nearest!r}. Correct it or leave it out.",
                parameter=shown,
                nearest=nearest,
            )


def _nearest(name: str, known: Collection[str]) -> str:
    """The known name that has most in common with `name`."""
    (nearest,) = difflib.get_close_matches(name.lower().replace("-", "_"), sorted(known), n=1, cutoff=0.0)
    return nearest
