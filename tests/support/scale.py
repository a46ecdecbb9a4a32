"""How large crowds are: the environment's TEST_SCALE, 1 by default. `tests/run` sets it."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("TEST_SCALE", "1"))


def scaled(count: int) -> int:
    """`count` times the scale, but at least 20."""
    return max(20, int(count * SCALE))
