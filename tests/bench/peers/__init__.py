"""The same loads on this broker and on other servers, each on a CPU of its own, and one table of the figures.

Run it as `python -m tests.bench.peers` (`--help` says how to run parts); `broker.bench` makes the load.

Rules: a server is started anew for each measurement, on the first CPU that this process may use; the load runs on the second.
Measurements are interleaved (A B C D, A B C D, …), so that other activity on the machine affects all servers alike. The median
of the rounds counts. The goals of each row are in `loads`; how a server is started is in `servers`.
"""
