"""What a start needs to know of a store (`log.start.StoreState`), as a value."""

from __future__ import annotations

from dataclasses import dataclass

from broker.events import EventId


@dataclass(frozen=True)
class StateValue:
    """A store that has given all ids up to `last_id`, and lost nothing but the cursor `lost`."""

    born: EventId
    last_id: EventId
    received_to: EventId
    lost: EventId | None = None

    def is_lost(self, cursor: EventId) -> bool:
        return cursor == self.lost
