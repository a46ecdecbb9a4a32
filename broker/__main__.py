"""The command `broker`, and `python -m broker`."""

from __future__ import annotations

import signal
import sys


def run() -> int:
    """Run the command and return its exit status.

    An interrupt while modules are loaded ends the process as it ends other programs: Python would print where it was.
    """
    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from broker.cli import main

    signal.signal(signal.SIGINT, former)
    return main()


if __name__ == "__main__":
    sys.exit(run())
