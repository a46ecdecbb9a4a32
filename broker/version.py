"""The version of the installed package."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache  # it is read from a file
def installed_version() -> str:
    """The version; "" if the package is not installed, as in a source tree."""
    try:
        return version("sse-broker")
    except PackageNotFoundError:
        return ""
