"""The start of any process: its log, limits and garbage collector, and what a start returns or raises."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass

from broker.descriptors import raise_limit

COLLECT_AFTER = 20_000
"""Container objects allocated between two runs of the cycle collector; a request allocates about 50."""


class StartError(Exception):
    """The operator's or the machine's fault: the broker can't start. The text is one line."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A started broker.

    Attributes:
        url: where it listens.
        store: the store's name, for the start line.
    """

    url: str
    store: str


def set_up_process(log_level: str, *, log_pid: bool = False) -> None:
    """Log to standard error, and raise the limit of file descriptors as far as allowed.

    Args:
        log_pid: add the process id to log lines, to distinguish workers.
    """
    name = "%(name)s[%(process)d]" if log_pid else "%(name)s"
    logging.basicConfig(level=log_level.upper(), format=f"%(asctime)s %(levelname)s {name}: %(message)s")
    raise_limit()


def relax_collector() -> None:
    """Run the cycle collector less often: requests leave few cycles, and most objects that it visits live long."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)
