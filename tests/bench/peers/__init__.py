"""The same loads on this broker and on its peers, each on a CPU of its own, and one table of what came of it.

Run it as `python -m tests.bench.peers` (`--help` says how to take it in pieces); `broker.bench` makes the load.

Rules: a peer is started anew for every measurement, on the first CPU this process may use, and the load runs on the second.
Measurements are interleaved (A B C D, A B C D, …), so that what else the machine does meets all of them alike, and the
median of the rounds counts. What a row must come to stands in `loads`, the way a server is started in `servers`.
"""
