"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version; "" if the package is not installed, as in a source tree."""
    try:
        return version("sse-broker")
    except PackageNotFoundError:
        return ""
