"""The store in memory: ids come from the clock, events are kept in the topics' logs, delivery is a direct call.

Rules: nothing here waits, so every method is atomic. Methods are `async` only because the protocol's are. The store is
born when the process starts: a cursor from before that gets a gap, `lost`.
"""

from __future__ import annotations

from broker.stores.memory.store import MemoryStore as MemoryStore
