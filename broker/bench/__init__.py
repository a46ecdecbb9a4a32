"""A load generator for any SSE server, and the figures it measures.

Rules: it uses sockets, and /proc for a process id that it is given. It knows nothing of how a server works, and imports nothing
of the broker except `descriptors`, so that it can put the same load on any server.

The modules, from the bottom:

    plan           the load, the server's address, and errors of the caller (BenchError)
    stamps         the time stamp in an event's data; counts and samples events in bulk
    histogram      counts latencies, and computes percentiles
    responses      reads as much of an HTTP response as a load generator needs
    proc           CPU time and memory from /proc
    types          the messages between the coordinator and its processes
    subscribers    a process full of subscribers
    publishers     a process full of publishers; streamed_body: one that streams NDJSON
    processes      starts the processes and talks to them
    preflight      checks the server before the load, and prepares topics and cursors
    results        the Result of a run, computed from the messages
    report         a Result as text
    coordinator    leads the processes through the phases of a run

Load goes only to loopback addresses, unless the caller says that the server is theirs.
"""

from __future__ import annotations

from broker.bench.coordinator import measure
from broker.bench.plan import BenchError, Load
from broker.bench.results import Result

__all__ = ["BenchError", "Load", "Result", "measure"]
