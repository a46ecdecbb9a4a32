"""A chaos run: publishers and subscribers on real processes that are killed, paused and cut off, and an oracle that checks
what came out of it.

`ledger` records what was published. `witness` records what one subscriber heard, and checks it. `publishers`, `wanderers` and
`closers` are the clients. `groups` start brokers and servers, and `faults` disturb them. `run` joins them.

An hour's run: `python -m tests.stores.chaos --seconds 3600 --seed 1`.
"""
