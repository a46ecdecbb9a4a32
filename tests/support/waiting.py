"""Waiting for a condition, with a bound: every test that waits does it with these."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

WAIT_SECONDS = 120
"""The default bound. A condition usually holds within milliseconds; the bound only matters on a busy machine."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Return once `condition()` is true. Raises AssertionError, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


async def until(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """The same, while the loop runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.005)
