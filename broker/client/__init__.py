"""The Python client: publish and subscribe from asyncio, and a plain `publish` for Django, Flask and scripts.

    async with Client("http://127.0.0.1:8080") as client:
        await client.publish("news", "hello")
        async with client.subscribe("news") as events:
            async for event in events:
                print(event.data)

    publish("http://127.0.0.1:8080", "news", "hello")  # blocking; the standard library only

Rules: speaks the contract, knows nothing of the server. A package and not one module, for its parts differ in what they
need: `publish` works, and is imported, without aiohttp.

    errors        what can go wrong, and the reading of a problem
    address       URLs
    credentials   the token, or who gives it
    words         values of a subscription: `Gap`, `Connection`
    backoff       how long to wait before the next attempt
    blocking      `publish`
    publishing    what the publishing side of `Client` sends, and its retries
    streaming     `Stream`: a stream into one topic, over any number of connections
    asking        asking for a stream, once
    meaning       what an event of a stream is to who subscribed
    subscription  one subscription, over any number of connections
    client        `Client`, which joins the two to one aiohttp session
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from broker.client.blocking import publish as publish
from broker.client.errors import Cancelled as Cancelled
from broker.client.errors import ClientError as ClientError
from broker.client.errors import PublishError as PublishError
from broker.client.errors import SubscribeError as SubscribeError
from broker.client.words import Connection as Connection
from broker.client.words import Gap as Gap

if TYPE_CHECKING:
    from broker.client.client import Client as Client
    from broker.client.publishing import Published as Published
    from broker.client.streaming import Stream as Stream
    from broker.client.subscription import Subscription as Subscription
else:
    _LATER = {
        "Client": "broker.client.client",
        "Published": "broker.client.publishing",
        "Stream": "broker.client.streaming",
        "Subscription": "broker.client.subscription",
    }

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)
