"""What subscribers were written, counted once for all that get the same writes (see `write_each`)."""

from __future__ import annotations


class Totals:
    """Sums of events and bytes; never changed, so that a later write makes other ones for those that get it."""

    __slots__ = ("bytes", "events")

    def __init__(self, events: int, size: int) -> None:
        self.events = events
        self.bytes = size


NOTHING = Totals(0, 0)
"""The totals of a subscriber that has shared no write."""
