"""What each process of the broker sets up for itself: its log, its descriptors, its collector, its signals.

Rules: nothing here knows what the process is for. Called once, at its start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal

from broker.descriptors import raise_limit

COLLECT_AFTER = 20_000  # new objects that refer to others; a request makes about 50

Signals = asyncio.Queue[signal.Signals]


class StartError(Exception):
    """Why the broker can't start, in one line."""


def set_up(log_level: str, *, names_itself: bool = False) -> None:
    """Log to standard error, with this process's id where there are several, and take all descriptors there are."""
    who = "%(name)s[%(process)d]" if names_itself else "%(name)s"
    logging.basicConfig(level=log_level.upper(), format=f"%(asctime)s %(levelname)s {who}: %(message)s")
    raise_limit()


def relax_collector() -> None:
    """Let the cycle collector look less often: each request leaves few cycles, and what it would walk is long-lived."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)


def catch(*numbers: signal.Signals) -> Signals:
    """From now on these signals do nothing but arrive in the queue that is returned. Needs a running loop."""
    caught: Signals = asyncio.Queue()
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, caught.put_nowait, number)
    return caught


async def asked_to_end(signals: Signals) -> signal.Signals:
    """The next one that isn't SIGHUP: what asks for a renewal, or comes of a closed terminal, makes no end more urgent."""
    while (number := await signals.get()) is signal.SIGHUP:
        pass
    return number


def hangup_is_ours() -> bool:
    """Whether SIGHUP may be caught: not where whoever started us had it ignored, so that we outlive a terminal."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
