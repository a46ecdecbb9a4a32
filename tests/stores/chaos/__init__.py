"""A chaos run: publishers and subscribers on real processes that are killed, paused and cut off, and a check of the results.

- `ledger`: the events published, acknowledged, deleted and lost.
- `witness`, `account`: the events that one subscriber received, checked against the ledger. `replays`: the same for replays.
- `clients`: publishers, and the client that closes and deletes topics. `wanderer`: subscribers.
- `groups`, `replicated`, `ordered`, `embedded`: brokers with their servers, and the faults that disturb them. `processes`, `servers`: their parts.
- `run`, `report`: rounds of disturbance and quiet, and the figures.

`test_chaos` runs for three minutes with fixed seeds. For longer: `python -m tests.stores.chaos --seconds 3600 --seed 1`. A seed
fixes what clients and faults choose to do, but not how the processes interleave.
"""
