"""Programs of this folder, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from tests.support.waiting import WAIT_SECONDS


def run_program(name: str, url: str, python: str = sys.executable) -> None:
    """Run a program of this folder in a process of its own, which may fork."""
    done = subprocess.run(
        [python, "-X", "dev", "-W", "error", "-m", f"tests.client.blocking.{name}", url],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
