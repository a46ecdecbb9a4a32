"""The command line of `broker`."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [[], ["no-such-command"]])
def test_wrong_command(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "broker --help" in done.stderr
