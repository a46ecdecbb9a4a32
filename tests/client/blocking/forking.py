"""Forks for the programs of this folder."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its id."""
    with warnings.catch_warnings():
        # Python warns of a fork with threads, which is what servers do that fork their workers
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def result_of(pid: int) -> int:
    """Wait for the process; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
