"""File descriptors: the limit of this process, and how many connections fit into it."""

from __future__ import annotations

import resource

MAX_DESCRIPTORS = 1_000_000
"""Assumed if the limit is infinite or larger."""
RESERVED = 64
"""For listening sockets, the log and the event loop."""


def raise_limit() -> int:
    """Raise the soft limit to the hard limit and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def available_descriptors() -> int:
    """The number of connections of all kinds that the soft limit allows; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MAX_DESCRIPTORS)
    return max(1, limit - RESERVED)


def default_max_connections() -> int:
    """The default of `max_connections`: 90 % of the descriptors. The rest is for publishers, probes and refusals."""
    return max(1, available_descriptors() * 9 // 10)
