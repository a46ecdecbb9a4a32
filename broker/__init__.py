"""sse-broker: publish events to topics over HTTP; subscribers follow them as server-sent events.

The folders are layers, from top to bottom. Imports point down only, and folders in the same row don't import each other:

    process, cli        instances, the supervisor and its workers; the commands. Only here do settings, a store
                        and HTTP handlers meet
    web                 HTTP: requests, responses, statuses. Calls the node
    node                joins one store and one hub: publish, watch, drain, limits, evictions
    fanout | stores     from logs to sockets | where events are kept and get their ids
           | settings   every setting, checked
    log | auth          the bounded log of a topic | grants, tokens, keys. Values only, no I/O
    modules in the root words that all layers use: events, topics, errors, sse, measures, ...

`client`, `bench` and `doctor` use a broker over HTTP. Only the commands import them.

Invariants. Code that upholds one names it, and each has a test named after it:

    I1  ids on a connection strictly increase
    I2  no gap is silent
    I3  fan-out never awaits a subscriber
    I4  every buffer is bounded in bytes, including the kernel's
    I5  an event is encoded once per instance and form
    I6  only stores use types of the redis library
    I7  a 2xx to a publisher means that the event is in the store
    I8  a drain ends every stream with its own `retry:` and loses nothing
    I9  no request, however bad, affects other connections
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.client import BlockingClient as BlockingClient
    from broker.client import Client as Client
    from broker.process.app import create_app as create_app
    from broker.settings import Settings as Settings
else:
    _LATER = {
        "BlockingClient": "broker.client",
        "Client": "broker.client",
        "Settings": "broker.settings",
        "create_app": "broker.process.app",
    }

    def __getattr__(name: str) -> object:
        """Import public names on first use, so that a publisher doesn't load the server."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)
