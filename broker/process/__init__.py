"""Processes: one instance, or a supervisor with several workers and, with `--data`, a Valkey server.

    app             the aiohttp application, built from the settings
    stores          the store that the settings choose
    instance        one instance: listens and serves until a signal
    supervisor      the order of start and stop; signals
    workers         the pool of worker processes
    worker_process  one of them
    pulse           whether one hangs
    worker          the program of a worker, and its messages
    listeners       the sockets of the port, and the unix socket
    unix_socket     its file
    activation      sockets that a service manager passes
    listening       listens on the sockets
    accepting       accepts connections on one of them
    proxied         reads the PROXY header of a connection
    proxy_header    the header's two formats
    socket_transport  the transport of a plain connection
    socket_polling  watches the sockets
    coalescing      one wake-up of the loop for the events of many of them
    data_directory  the directory of `--data`
    valkey          the Valkey server in it
    signals, setup  for every process
    health          asks a running broker; the image's health check

Rules: except in `app`, `stores` and `instance`, processes, sockets and files only; no topic, event or store. A worker is an ordinary
instance with a `redis_url`. One worker without `--data` runs without a supervisor.

Each worker has its own listening socket; with SO_REUSEPORT the kernel distributes connections among them. The supervisor
creates the sockets and keeps them open. So a port in use is reported once, before any worker starts, and with port 0 all workers
get the same port. A connection in a socket's queue when its worker ends waits for the successor and is not reset.

Nothing outlives a killed supervisor: workers exit when a pipe closes, and the kernel sends SIGTERM to the Valkey server.

Libraries considered: circus (needs tornado and pyzmq), cotyledon (forks, and reloads in place), the arbiters of gunicorn and
uvicorn (not usable alone), simpervisor (no readiness check, no restart delay). None passes a listening socket from a draining
worker to its successor.
"""
