"""The store in memory: ids come from the clock, the topics' logs are what it keeps, delivery is a direct call.

Rules: nothing here waits, so every method is atomic. Methods are `async` only because the contract's are. The store is
born when the process starts: a cursor from before that is told `lost`.
"""

from __future__ import annotations

from broker.stores.memory.store import MemoryStore as MemoryStore
