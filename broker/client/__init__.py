"""The Python client: `Client` for asyncio; `BlockingClient` and `publish` for Django, Flask and scripts.

    async with Client("http://127.0.0.1:8080") as client:
        await client.publish("news", "hello")
        async with client.subscribe("news") as events:
            async for event in events:
                print(event.data)

    publish("http://127.0.0.1:8080", "news", "hello")  # blocking; the standard library only

Rules: knows nothing of the server. The blocking side must work without aiohttp and asyncio. No module that exists only on Unix is needed.

    errors              what the client raises
    types               its values: `Gap`, `End`, `TopicState` and others
    address             URLs of a broker and of its topics
    response            a complete response
    retries             when a failed request is repeated
    ndjson              events as lines
    sent_events         the events of a stream, kept to be sent again
    reading             `History`: events that topics still have; the list of topics
    control_events      decoding of events
    subscription_state  the events that a subscription has received, and its next request
    sockets             options of sockets
    blocking/           `BlockingClient` and `publish`

With aiohttp:

    requests         one request
    publishing       publishing with retries
    streaming        `Stream`: events into one topic
    open_stream      the request for an event stream
    subscription     `Subscription`
    base_client, publish_methods, client   `Client`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from broker.client.blocking.client import BlockingClient as BlockingClient
from broker.client.blocking.client import publish as publish
from broker.client.blocking.streaming import BlockingStream as BlockingStream
from broker.client.blocking.subscription import BlockingSubscription as BlockingSubscription
from broker.client.errors import Cancelled as Cancelled
from broker.client.errors import ClientError as ClientError
from broker.client.errors import PublishError as PublishError
from broker.client.errors import SubscribeError as SubscribeError
from broker.client.reading import History as History
from broker.client.types import Connection as Connection
from broker.client.types import End as End
from broker.client.types import Gap as Gap
from broker.client.types import Published as Published
from broker.client.types import TopicState as TopicState

if TYPE_CHECKING:
    from broker.client.client import Client as Client
    from broker.client.streaming import Stream as Stream
    from broker.client.subscription import Subscription as Subscription
else:
    _LAZY = {
        "Client": "broker.client.client",
        "Stream": "broker.client.streaming",
        "Subscription": "broker.client.subscription",
    }

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)
