"""sse-broker: publish events to topics over HTTP; subscribers follow them as server-sent events.

The folders are layers. An import points down only, and folders beside each other don't import each other:

    process, cli        an instance, the supervisor and its workers; the commands. Settings, a concrete store
                        and the HTTP handlers meet here
    web                 HTTP: requests, answers, statuses. Calls the node
    node                one store and one hub joined: publish, watch, drain; limits and evictions
    fanout | stores     from logs to sockets | where events are kept and given their ids
    log | auth          the bounded log of a topic | grants, tokens, keys. Values only, no I/O
    the root            words that all use: events, topics, errors, sse, metrics, settings, ...

`client` and `bench` talk to a broker over HTTP. Only the commands use them.

Invariants; the code that upholds one names it, and each has a test of its name:

    I1  ids on a connection strictly increase
    I2  no silent gap
    I3  fan-out never awaits a subscriber
    I4  every buffer is bounded, in bytes, the kernel's too
    I5  an event is encoded once per instance and form
    I6  no redis type above stores
    I7  a 2xx to a publisher means that the event is in the store
    I8  drain ends every stream with a `retry:` of its own and loses nothing
    I9  no request, however bad, changes what other connections get
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.client import Client as Client
    from broker.process.app import create_app as create_app
    from broker.settings import Settings as Settings
else:
    _LATER = {"Client": "broker.client", "Settings": "broker.settings", "create_app": "broker.process.app"}

    def __getattr__(name: str) -> object:
        """The public names, each imported when it is asked for: a publisher doesn't pay for the server."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)
