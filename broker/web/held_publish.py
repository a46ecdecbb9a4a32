"""Publishes the events of a request. Those that have to wait keep their place among the bodies until they are published.

Rules: a publish is never interrupted, so it outlives a connection that is cut. Those that wait are therefore bounded here (I4), not by
their connections: whether they wait for subscribers, or for a store that is behind. One that is refused has published nothing. What
need not wait pays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.auth.grants import Caller
from broker.stores.base import Item, PublishOptions, Receipt
from broker.web.body_limits import HeldBody
from broker.web.services import Services
from broker.web.values import Request

WAITING_BYTES = 6 << 10
"""For an event that waits, besides its lines and its request's head: its handler, and its place in the queue."""
HEADER_BYTES = 150
"""For each header, besides its value."""


async def publish_event(
    services: Services,
    request: Request,
    caller: Caller,
    items: Sequence[Item],
    key: str | None,
    options: PublishOptions,
) -> Receipt:
    """`Node.publish` for the one event of a request, to one topic or several.

    Raises:
        RateLimited, Overloaded: it would have to wait, and too much waits already.
    """
    node = services.node
    if not node.must_wait(items):
        return await node.publish(items, key, options)
    with services.bodies.limits.enter(caller) as held:
        held.hold(WAITING_BYTES + _head_bytes(request) + (len(items[0][1]) if items else 0))
        return await node.publish(items, key, options)


def _head_bytes(request: Request) -> int:
    """About how much memory the head of a request takes."""
    headers = request.headers
    values = [value for name in set(headers) for value in headers.getall(name)]
    return len(request.path) + len(request.query.raw) + HEADER_BYTES * len(values) + sum(map(len, values))


async def publish_part(
    services: Services,
    held: HeldBody,
    unfinished: int,
    items: Sequence[Item],
    size: int,
    options: PublishOptions,
) -> Receipt:
    """`Node.publish` for events of a streamed body, which is counted already: `held`.

    Args:
        unfinished: bytes of the body that belong to an incomplete event.
        size: bytes that the events take meanwhile.

    Raises:
        RateLimited, Overloaded: they would have to wait, and too much waits already.
    """
    node = services.node
    if not node.must_wait(items):
        return await node.publish(items, None, options)
    held.hold(unfinished + size)
    try:
        return await node.publish(items, None, options)
    finally:
        held.hold(unfinished)
