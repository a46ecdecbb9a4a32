"""The soak: hours of mixed load and faults, in which nothing may grow.

`python -m tests.bench.soak --minutes 60`. Two brokers share a Valkey server, through a proxy that fails as networks do. One broker
is restarted again and again; the other runs from start to end and is measured: resident memory, descriptors, tasks of its event loop
and latency. A cycle disturbs, then is quiet; each quiet part is one sample. A line is fitted to the samples behind the warm-up, and
nothing may grow by more than its allowance, within the error of the fit.

    clients    streams that stay, come and go, or don't read; single events, bursts, token streams, administrators
    faults     what goes wrong with the store and the other broker
    samples    what the measured broker uses
    trend      the line, its slope and the slope's error
    plot       the samples with their lines
"""
