"""A load generator for any SSE server, and the figures it comes back with.

Rules: nothing here knows how a server works inside; it sees sockets, and /proc where it is told a process id. Nothing of
the broker is imported, so that the same load can be put on any peer.

The parts, from the bottom:

    plan      what to do: Load, Target, and the caller's mistakes (BenchError)
    marks     the stamp in an event's data; counting events and sampling their age in bulk
    tally     ages in nanoseconds, gathered cheaply and handed to an HDR histogram
    answers   what must be seen of an HTTP answer
    machine   what /proc knows: CPU time, resident memory, the kernel's socket memory
    words     what the processes are told and tell
    readers   a process full of subscribers
    writers   a process full of publishers; stream: those that stream one body
    crew      the processes and the pipes to them
    visit     what is done by hand before the load: look, publish a little, learn a cursor
    conduct   leads them through the phases
    report    the Result, as values, as text; outcome makes it of what was told
    plot      the latency curve as SVG

All load goes to loopback unless the caller says that the server is theirs.
"""

from __future__ import annotations

from broker.bench.conduct import measure
from broker.bench.plan import BenchError, Load
from broker.bench.report import Result

__all__ = ["BenchError", "Load", "Result", "measure"]
