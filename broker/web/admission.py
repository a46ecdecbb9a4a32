"""Admits writes: the one step before anything that a caller changes in the store, in whatever form it comes.

Rules: it checks that the caller's token is still good, and charges the write to the caller's rate limits, before the work.
Revoking tokens and disconnecting clients are not charged: an operator must be able to do both at any time.
"""

from __future__ import annotations

from broker.auth.grants import Caller
from broker.errors import RateLimited
from broker.web.body_reader import Interrupt
from broker.web.services import Services


def admit(services: Services, caller: Caller, *, events: int = 1, size: int = 0) -> None:
    """Admit a write of `events` of `size` bytes in all; one that isn't an event counts as one of 0 bytes.

    Raises:
        Unauthorized: the token has expired or was revoked while the body was read.
        RateLimited: the caller exceeds its rate limits.
        TooLarge: the write is more than they ever allow at once.
    """
    services.node.streams.evictions.check(caller.grant)
    charge(services, caller, events=events, size=size)


def charge(services: Services, caller: Caller, *, events: int, size: int) -> None:
    """`admit` for a caller that was authenticated in this same step, so that its token is still good."""
    node = services.node
    if not node.limits.limits_publishing:
        return
    try:
        node.limits.check_publish(caller, events, size)
    except RateLimited as error:
        node.metrics.refused_publishes.add(str(error.extra["limit"]))
        raise


async def admit_part(
    services: Services, caller: Caller, interrupt: Interrupt, *, events: int = 1, size: int = 0
) -> None:
    """Admit a part of a streamed body: wait, and read no more of it, while the caller exceeds its rate limits.

    Raises:
        Unauthorized: the token has expired or was revoked while this waited.
        BrokerError: as `BodyReader.pause`.
    """
    node = services.node
    if node.limits.limits_publishing:
        while seconds := node.limits.try_publish(caller, events, size):
            node.metrics.slowed_seconds.value += seconds
            await services.bodies.pause(seconds, interrupt)
            node.streams.evictions.check(caller.grant)
