"""The headers of a request, as handlers see them. A module of its own, because mypyc compiles no overloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, overload


class Headers(Protocol):
    """Headers of a request, perhaps with several values of a name. Names are asked for in lower case."""

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    def getall(self, name: str, /) -> Sequence[str]:
        """All values of `name`; `KeyError` if it is absent."""
