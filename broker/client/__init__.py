"""The Python client: `Client` for asyncio, and a blocking `publish` for Django, Flask and scripts.

    async with Client("http://127.0.0.1:8080") as client:
        await client.publish("news", "hello")
        async with client.subscribe("news") as events:
            async for event in events:
                print(event.data)

    publish("http://127.0.0.1:8080", "news", "hello")  # blocking; the standard library only

Rules: knows nothing of the server. `publish` must work without aiohttp. No module that exists only on Unix is needed.

    errors          what the client raises
    address         URLs of a broker and of its topics
    types           values of a subscription: `Gap`, `Connection`
    blocking        `publish`
    requests        one request
    reading         `History`: events that topics still have
    publishing      publishing with retries
    streaming       `Stream`: events into one topic
    open_stream     the request for an event stream
    control_events  decoding of events
    subscription    `Subscription`
    client          `Client`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from broker.client.blocking import publish as publish
from broker.client.errors import Cancelled as Cancelled
from broker.client.errors import ClientError as ClientError
from broker.client.errors import PublishError as PublishError
from broker.client.errors import SubscribeError as SubscribeError
from broker.client.types import Connection as Connection
from broker.client.types import Gap as Gap

if TYPE_CHECKING:
    from broker.client.client import Client as Client
    from broker.client.publishing import Published as Published
    from broker.client.reading import History as History
    from broker.client.streaming import Stream as Stream
    from broker.client.subscription import Subscription as Subscription
else:
    _LAZY = {
        "Client": "broker.client.client",
        "Published": "broker.client.publishing",
        "History": "broker.client.reading",
        "Stream": "broker.client.streaming",
        "Subscription": "broker.client.subscription",
    }

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)
