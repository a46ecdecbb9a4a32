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


def usable() -> int:
    """How many connections of all kinds the soft limit allows, a million at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)) - RESERVE)


def default_max_connections() -> int:
    """Nine tenths of them: publishers, probes and refusals need some, too."""
    return max(1, usable() * 9 // 10)
