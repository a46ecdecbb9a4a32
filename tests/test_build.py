"""Which modules are compiled: none, or on the compiled build (see `deploy/hatch_build.py`) all that pyproject.toml names."""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["custom"]


def matching(patterns: list[str]) -> set[Path]:
    found = {pattern: set(ROOT.glob(pattern)) for pattern in patterns}
    assert all(found.values()), found
    return {path.relative_to(ROOT) for paths in found.values() for path in paths}


@pytest.mark.parametrize("path", sorted(matching(HOOK["modules"]) - matching(HOOK["not-modules"])), ids=str)
def test_a_module_is_compiled_on_the_compiled_build(path: Path) -> None:
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    assert module.__file__
    is_compiled = not module.__file__.endswith(".py")
    assert is_compiled == (os.environ.get("TESTED_BUILD") == "compiled")
