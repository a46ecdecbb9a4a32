"""The front's own tests run on nothing else."""

from __future__ import annotations

from tests.conftest import serve

__all__ = ["serve"]
