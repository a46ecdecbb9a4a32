"""Processes: one instance, or a supervisor with several workers and, with `--data`, a Valkey server.

    app             the aiohttp application, built from the settings
    instance        one instance: listens and serves until a signal
    supervisor      starts everything, handles signals and stops everything in order
    workers         the pool of worker processes: restarts workers that die, and all of them on SIGHUP
    worker          one worker process: its program, and the messages between it and the supervisor
    listeners       the sockets of the port
    data_directory  the directory of `--data`: its permissions and lock
    valkey          the Valkey server that runs there
    restarts        how long to wait before a process is restarted
    signals, setup  what every process needs at its start

Rules: below `app` and `instance`, processes, sockets and files only; no topic, event or store. A worker is an instance like
any other that gets a `redis_url`. With one worker and without `--data` there is no supervisor and none of it is imported.

Each worker listens on a socket of its own. With SO_REUSEPORT the kernel distributes connections among them by a hash of the
addresses. The supervisor creates these sockets and keeps them open, which has three effects. A port in use is reported once,
before any worker starts. With port 0 all workers get the same port. A connection that waits in a socket's queue when its
worker ends is accepted by the worker's successor; otherwise the kernel would reset it.

Nothing outlives the supervisor, even if it is killed: each worker exits when its end of a pipe closes, and the kernel sends
SIGTERM to the Valkey server.

Libraries considered: circus (needs tornado and pyzmq), cotyledon (forks, and reloads in place), the arbiters of gunicorn and
uvicorn (not usable alone), simpervisor (no readiness check, no restart delay). None passes a listening socket from a draining
worker to its successor.
"""
