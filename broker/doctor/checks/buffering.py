"""Whether a hop holds events back: the first event against the first byte, then the pace of a paced stream.

The first events are published one at a time, each after the one before it has arrived, so that only a hop that holds them can
make them late. Then events go out at a fixed pace, so that a hop that collects for some time shows by the clumps it makes.
"""

from __future__ import annotations

import asyncio
from statistics import median

from broker.doctor.finding import Verdict, error, ok, warning
from broker.doctor.site import RequestFailed, Site
from broker.doctor.wire import Exchange

OPEN_SECONDS = 3.0
EVENT_SECONDS = 3.0
"""An event that takes longer is held back; the broker writes it within milliseconds."""
SINGLE_EVENTS = 3
PACED_EVENTS = 12
PACE_SECONDS = 0.2
CLUMP_SECONDS = 0.4
"""Half of the events take at least so long if a hop collects them."""


async def check(site: Site) -> Verdict:
    topic = site.topic("buffering")
    async with site.stream(topic) as stream:
        opened = await stream.wait(lambda: stream.arrivals, OPEN_SECONDS)
        if stream.has_head and stream.status != 200:
            raise RequestFailed(f"the stream was answered with {stream.status}")
        begun = stream.arrivals[0][0] - stream.sent_at if opened else None
        delays: list[float] = []
        for number in range(SINGLE_EVENTS):
            published_at = _now()
            await site.publish_id(topic, f"single-{number}")
            if not await stream.wait(lambda: len(stream.published()) > len(delays), EVENT_SECONDS):
                return await _held(site, topic, stream, begun)
            delays.append(stream.published()[-1][0] - published_at)
        assert begun is not None or delays
        return await _paced(site, topic, stream, begun, max(delays))


async def _held(site: Site, topic: str, stream: Exchange, begun: float | None) -> Verdict:
    """The verdict on a path that holds events back; the end of the topic shows whether they come at all."""
    first = "No byte came" if begun is None else f"The first byte came after {begun:.2f} s"
    what = f"{first}, but an event that was published then did not arrive within {EVENT_SECONDS:g} s."
    await site.publish(topic, "", {"end": "true"})
    if await stream.wait(lambda: stream.published(), EVENT_SECONDS):
        what += " It arrived when the topic ended: a hop holds back what the broker writes."
    return error(what, site.hop)


async def _paced(site: Site, topic: str, stream: Exchange, begun: float | None, slowest: float) -> Verdict:
    sent: dict[str, float] = {}
    publishing = asyncio.create_task(_publish_at_pace(site, topic, sent))
    expected = SINGLE_EVENTS + PACED_EVENTS
    try:
        complete = await stream.wait(
            lambda: len(stream.published()) >= expected, PACED_EVENTS * PACE_SECONDS + EVENT_SECONDS
        )
        if complete or publishing.done():
            await publishing
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    arrived = [at for at, _ in stream.published()[SINGLE_EVENTS:]]
    if not complete:
        return error(
            f"Of {PACED_EVENTS} events, published every {PACE_SECONDS:g} s, only {len(arrived)} arrived within "
            f"{EVENT_SECONDS:g} s of the last one.",
            site.hop,
        )
    typical = median(at - sent[event.data] for at, event in stream.published()[SINGLE_EVENTS:])
    clumps = len(set(arrived))
    if clumps <= PACED_EVENTS / 2 and typical > CLUMP_SECONDS:
        return warning(
            f"{PACED_EVENTS} events, published every {PACE_SECONDS:g} s, arrived in {clumps} clumps, half of them more "
            f"than {typical:.2f} s late: a hop collects events before it passes them on.",
            site.hop,
        )
    opening = "" if begun is None else f"The first byte came after {begun * 1000:.0f} ms. "
    return ok(
        f"{opening}Events took at most {slowest * 1000:.0f} ms one by one, and {typical * 1000:.0f} ms in the median "
        f"at a pace of {PACE_SECONDS:g} s, in {clumps} pieces for {PACED_EVENTS} events."
    )


async def _publish_at_pace(site: Site, topic: str, sent: dict[str, float]) -> None:
    """Publish, without waiting for answers in between, which a slow hop may delay. Sets when each event was `sent`."""
    tasks = []
    try:
        for number in range(PACED_EVENTS):
            data = f"paced-{number}"
            sent[data] = _now()
            tasks.append(asyncio.create_task(site.publish_id(topic, data)))
            await asyncio.sleep(PACE_SECONDS)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
