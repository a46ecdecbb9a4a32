"""The blocking side where the system lacks what only Unix has, and in every Python that this machine has.

No test here runs on Windows itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.client.blocking.programs import run_program
from tests.support.broker_process import BrokerProcess

OLDEST, NEWEST = 11, 20


def pythons() -> list[str]:
    """One of each Python from 3.11: the tests' own, those on the search path, and those of pyenv."""
    found = {sys.version_info.minor: sys.executable}
    for minor in range(OLDEST, NEWEST):
        by_pyenv = (Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python3")
        for path in (shutil.which(f"python3.{minor}"), *map(str, sorted(by_pyenv))):
            if path is not None and minor not in found and _runs(path):
                found[minor] = path
    return list(found.values())


def _runs(python: str) -> bool:
    """Whether it does; pyenv has a command for each version, also for those that are switched off."""
    return subprocess.run([python, "-c", "import ssl"], capture_output=True, check=False).returncode == 0


def test_it_needs_only_the_standard_library_and_nothing_that_only_unix_has(broker: BrokerProcess) -> None:
    for python in pythons():
        run_program("like_windows", broker.url, python)
        broker.empty()
