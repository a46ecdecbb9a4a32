"""What a start needs to know of a store (`log.start.StoreState`), as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.events import EventId
from broker.log.timeline import Timeline


@dataclass(frozen=True)
class StateValue:
    """A store that has given all ids up to `last_id`, and lost nothing but the cursor `lost`."""

    born: EventId
    last_id: EventId
    received_to: EventId
    lost: EventId | None = None
    timeline: Timeline = field(default_factory=Timeline)

    def is_lost(self, cursor: EventId) -> bool:
        return cursor == self.lost
