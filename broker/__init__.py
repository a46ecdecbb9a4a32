"""sse-broker: publish events to topics over HTTP; subscribers follow them as server-sent events.

Layers; an import points down only:

    edge     cli, supervisor, instance, process, web.app   where settings, a concrete store, handlers and processes meet
    web      web.*                                         aiohttp handlers; call the node; know HTTP statuses
    core     node, admission, readings                     joins one store to one hub: watch, publish, drain
    parts    hub, fanout, feeds, feed, ends,
             walk, subscriber, gate,
             dismissals, expiries, slices | stores.*      do not know each other
    pure     sse, entry, log, logs, producers, start, access,
             tokens, revocations, buckets, metrics         bytes and values; no asyncio, no aiohttp
    words    events, topics, errors, notices, hosts, keys,
             settings

Beside them, and used by the command line only: `client` and `bench`, which talk to a broker from outside.

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
