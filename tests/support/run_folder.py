"""A folder that all processes of one test run share, for expensive files. Also a plugin that makes and removes it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

RUN_FOLDER = "TESTS_RUN_FOLDER"
"""The environment variable with its path. All users may read it."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # workers inherit the variable
        folder = tempfile.mkdtemp(prefix="tests-run-")
        Path(folder).chmod(0o755)
        os.environ[RUN_FOLDER] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(RUN_FOLDER))
        for path in folder.iterdir():
            path.chmod(0o755)
        shutil.rmtree(folder)
