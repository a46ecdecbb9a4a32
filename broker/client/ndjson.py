"""Events as lines of NDJSON (contract §2).

Rules: values in, bytes out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from broker.events import Event

BATCH_BYTES = 32 << 10


async def encode_ndjson(
    events: AsyncIterable[str | Event] | Iterable[str | Event], *, with_topic: bool
) -> AsyncIterator[bytes]:
    """NDJSON lines. Events of an async iterable come one by one, others in chunks of about `BATCH_BYTES`."""
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield _line(event, with_topic=with_topic)
        return
    batch = bytearray()
    for event in events:
        batch += _line(event, with_topic=with_topic)
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


def _line(event: str | Event, *, with_topic: bool) -> bytes:
    if isinstance(event, str):
        event = Event(event)
    return ndjson_line(event.data, event.type, event.topic if with_topic else None)


def ndjson_line(data: str | bytes, event_type: str | None = None, topic: str | None = None) -> bytes:
    """One event as a line of NDJSON. Raises `ValueError` for a lone surrogate, or bytes that are not UTF-8."""
    text = data if isinstance(data, str) else data.decode()
    members = {"data": text, "event": event_type, "topic": topic}
    present = {name: value for name, value in members.items() if value is not None}
    return json.dumps(present, ensure_ascii=False).encode() + b"\n"
