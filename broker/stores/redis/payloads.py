"""The payloads that scripts publish on pub/sub channels, as values.

Rules: pure; the formats are described at the heads of the scripts in `lua/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from broker import sse
from broker.events import SEQUENCE_BITS, EventId
from broker.stores.redis.replies import decode_id, decode_retention
from broker.topics import Retention


class TopicUpdate(NamedTuple):
    """The change that one script call made to one topic: new entries, or its end.

    Attributes:
        epoch: of the store's history at that time.
        prev: the topic's last id before.
        last: the topic's last id after it.
        entries: `(id, frame)`, ids increasing; none for an end.
        size: bytes of the frames.
        announced_to: everything up to this id, in any topic, is published with this payload. A call for several topics
            publishes one payload for each, so `last` may lie behind ids that are not announced yet.
        reason: of an end; `deleted` after DELETE.
        retention: if the topic's first publisher asked for its own.
    """

    epoch: int
    prev: EventId
    last: EventId
    entries: Sequence[tuple[EventId, bytes]]
    size: int
    announced_to: EventId
    reason: str = ""
    retention: Retention | None = None


class Probe(NamedTuple):
    """Everything up to `last` was published before this payload."""

    epoch: int
    last: EventId


def decode_payload(data: bytes) -> TopicUpdate | Probe:
    """Raises `ValueError` if no script of the broker published it: others may use the same server."""
    head, _, body = data.partition(b"\n")
    kind, epoch, *rest = head.split(b" ")
    if kind == b"E":
        return _decode_entries(int(epoch), rest, body)
    if kind == b"F":
        age_ms, events, size, *rest = rest
        return _decode_entries(int(epoch), rest, body, decode_retention(age_ms, events, size))
    if kind == b"D":
        prev, end = rest
        return _end(int(epoch), prev, end, "deleted")
    if kind == b"C":
        prev, end, reason = rest
        return _end(int(epoch), prev, end, reason.decode())
    if kind == b"P":
        (last,) = rest
        return Probe(int(epoch), decode_id(last))
    raise ValueError("not a payload of a broker's script")


def _end(epoch: int, prev: bytes, end: bytes, reason: str) -> TopicUpdate:
    end_id = decode_id(end)
    return TopicUpdate(epoch, decode_id(prev), end_id, (), 0, end_id, reason)


def _decode_entries(
    epoch: int, fields: Sequence[bytes], body: bytes, retention: Retention | None = None
) -> TopicUpdate:
    prev, ms, n, announced, count, *sizes = fields
    first = int(ms) << SEQUENCE_BITS | int(n)
    announced_to = first + int(announced) - 1
    if len(sizes) != 2 * int(count) or not sizes or len(body) != sum(map(int, sizes[1::2])):
        raise ValueError("not a payload of a broker's script")
    if count == b"1":  # most are, and the loop below costs a third more
        event_id = first + int(sizes[0])
        frame = sse.frame(body, event_id)
        return TopicUpdate(
            epoch, decode_id(prev), event_id, ((event_id, frame),), len(frame), announced_to, "", retention
        )
    entries: list[tuple[EventId, bytes]] = []
    begin = total = event_id = 0
    for offset, size in zip(sizes[::2], sizes[1::2], strict=True):
        end = begin + int(size)
        event_id = first + int(offset)
        frame = sse.frame(body[begin:end], event_id)
        entries.append((event_id, frame))
        begin, total = end, total + len(frame)
    return TopicUpdate(epoch, decode_id(prev), event_id, entries, total, announced_to, "", retention)
