"""Several processes on one machine: workers on one port, and with `--data` the server that holds their events.

    run          starts everything, takes signals, ends everything in order
    crew         keeps the workers: replaces who died, renews all one after the other
    member       one worker process, from outside
    worker       the same from inside: the program that is started
    orders       what the two say to each other
    listeners    the sockets of the port
    directory    the place that `--data` names: whose it is, and who may use it
    valkey       the server that runs there
    restarts     how long to wait before what died is started again

Rules: processes, sockets and files only. No topic, event or store: a worker is an instance like any other, which is given a
`redis_url`. Nothing here is imported where there is one worker and no `--data`.

Each worker listens on a socket of its own (SO_REUSEPORT: the kernel spreads connections by their address), but the supervisor
made these sockets and keeps them. So a port that is taken is known at once and said once; port 0 is one port for all; and a
connection that waits in a socket's queue when its worker goes is taken by the successor, where it would have been reset.

Nothing outlives the supervisor, however it ends: workers hold the other end of a pipe, the server asks the kernel for a
SIGTERM.

Looked at, and not taken: circus (brings tornado and pyzmq), cotyledon (forks, reloads in place), gunicorn's and uvicorn's
arbiters (theirs alone), simpervisor (no readiness, no delays). None hands over a listener that is drained.
"""
