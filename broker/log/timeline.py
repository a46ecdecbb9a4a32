"""The times of events, calculated from their ids.

Rules: values; reads no clock. The store that assigns ids makes the corrections: the store in memory, or a shared store's
scripts (`state.lua`).

Ids never go back. If the clock was ahead for a while, ids stay ahead of it afterwards: they continue after the last one, at
the clock's pace. A *correction* records the first of these ids, and how far they are ahead. An id before the first correction
is the clock's time, but the clock may have been ahead then. So an id's time is at most the clock's time at the next correction.

Times never fall as ids rise. So the events older than a given time are those before one id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from broker.events import SEQUENCE_BITS, EventId, id_seconds

STEP_SECONDS = 3600.0
"""If the clock is behind the last id by more, it was wrong, or is: a correction is due."""
MAX_CORRECTIONS = 8


class Correction(NamedTuple):
    """From the id `first_ms`-0 on, ids are `ahead_ms` ahead of the clock."""

    first_ms: int
    ahead_ms: int


class Timeline:
    """The times of ids.

    Attributes:
        corrections: oldest first; usually none.
    """

    __slots__ = ("corrections",)

    def __init__(self, corrections: Sequence[Correction] = ()) -> None:
        self.corrections = tuple(corrections)

    def first_id(self, seconds: float) -> EventId:
        """The lowest id of the millisecond that contains `seconds` (since 1970): older events have lower ids."""
        ms = int(seconds * 1000)
        if self.corrections:
            for first_ms, ahead_ms in reversed(self.corrections):
                if ms > first_ms - ahead_ms:
                    return ms + ahead_ms << SEQUENCE_BITS
        return ms << SEQUENCE_BITS if ms > 0 else 0

    def seconds(self, event_id: EventId) -> float:
        """When the event with this id was published, in seconds since 1970."""
        if not self.corrections:
            return id_seconds(event_id)
        ms = event_id >> SEQUENCE_BITS
        latest = None
        for first_ms, ahead_ms in reversed(self.corrections):
            if ms >= first_ms:
                ms -= ahead_ms
                break
            latest = first_ms - ahead_ms if latest is None else min(latest, first_ms - ahead_ms)
        return (ms if latest is None else min(ms, latest)) / 1000

    @property
    def warning(self) -> str:
        """For the operator, after the corrections have changed."""
        if not self.corrections:
            return "the clock is right again: ids show its time"
        hours = self.ahead_ms / 3_600_000
        return (
            f"the clock was ahead for a while, or is behind: it is {hours:.1f} hours before the newest ids. Ids go on from there; "
            "events are dated, kept and found by the clock as it is now"
        )

    @property
    def ahead_ms(self) -> int:
        """How far new ids are ahead of the clock."""
        return self.corrections[-1].ahead_ms if self.corrections else 0

    def fit(self, last_ms: int, now_ms: int) -> bool:
        """Bring the corrections in line with a clock that shows `now_ms` after an id of `last_ms`. Returns whether they changed.

        The earliest correction that fits stays, and later ones go: the clock was behind, and is right again. If none fits, one
        more follows.
        """
        aheads = (0, *(correction.ahead_ms for correction in self.corrections))
        for count, ahead_ms in enumerate(aheads):
            if last_ms <= now_ms + ahead_ms + STEP_SECONDS * 1000:
                is_changed = count < len(self.corrections)
                self.corrections = self.corrections[:count]
                return is_changed
        newest = Correction(last_ms + 1, last_ms + 1 - now_ms)
        self.corrections = (*self.corrections, newest)[-MAX_CORRECTIONS:]
        return True
