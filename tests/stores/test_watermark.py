"""An id that only rises, and the callers that wait for it."""

from __future__ import annotations

import asyncio

from broker.stores.redis.watermark import Watermark


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    watermark = Watermark()
    for _ in range(100):
        watermark.reached(5).cancel()
    await asyncio.sleep(0)
    assert len(watermark._waiting) == 0
    waiting = watermark.reached(5)
    watermark.raise_to(5)
    assert waiting.done()
    await asyncio.sleep(0)
    assert len(watermark._waiting) == 0


async def test_it_never_falls() -> None:
    watermark = Watermark()
    watermark.raise_to(5)
    watermark.raise_to(3)
    assert watermark.value == 5
    assert watermark.reached(4).done()
