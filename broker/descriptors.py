"""File descriptors: how many this process may have, and what that leaves for streams."""

from __future__ import annotations

import resource

MOST = 1_000_000
RESERVE = 64  # for the listener, the log, the loop's own


def raise_limit() -> int:
    """Raise the soft limit to the hard one and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def default_max_connections() -> int:
    """Nine tenths of what the soft limit allows, a million at most: publishers, probes and refusals need some, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
    return max(1, (usable - RESERVE) * 9 // 10)
