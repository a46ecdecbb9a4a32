"""Replays at a time of quiet: all instances send the same, and every event that must be kept."""

from __future__ import annotations

import asyncio

from broker.events import EventId, format_id, parse_id
from tests.stores.chaos.ledger import Ledger
from tests.support.event_stream import AsyncStream

REPLAY_SECONDS = 10.0
TRIES = 5

Replay = dict[EventId, str]


async def read_replay(port: int, topic: str, upto: EventId) -> Replay | None:
    """What an instance sends of a topic from its earliest event to the one with this id; None if it doesn't come to that."""
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(REPLAY_SECONDS):
                stream = await AsyncStream.open(port, f"/topics/{topic}?since=earliest")
                try:
                    if stream.status == 200 and await _read_until(stream, upto):
                        return {parse_id(event.id) or 0: event.data for event in stream.published()}
                finally:
                    stream.writer.transport.abort()
        except (OSError, TimeoutError, AssertionError):
            await asyncio.sleep(0.1)
    return None


async def _read_until(stream: AsyncStream, upto: EventId) -> bool:
    while not any(event.id == format_id(upto) for event in stream.published()):
        if not await stream.more():
            return False
    return True


def check_replays(topic: str, replays: list[Replay | None], ledger: Ledger, since: float) -> list[str]:
    """Faults in the replays of a topic by several instances; `since` is when the last round of faults began."""
    found = [replay for replay in replays if replay is not None]
    if len(found) != len(replays):
        return [f"an instance doesn't replay {topic} up to its newest event"]
    comparable = [_without_lost(replay, ledger) for replay in found]
    wrong = [
        f"instances replay {topic} differently: {_difference(comparable[0], other)}"
        for other in comparable[1:]
        if other != comparable[0]
    ]
    for replay in found:
        wrong += [
            f"a replay of {topic} has {data[:40]} at {format_id(event_id)}, which was never published so"
            for event_id, data in replay.items()
            if event_id in ledger.data_of and ledger.data_of[event_id] != data
        ]
        wrong += [
            f"a replay of {topic} lacks {data[:40]}"
            for data in _must_be_kept(topic, ledger, since) - set(replay.values())
        ]
    return wrong


def _without_lost(replay: Replay, ledger: Ledger) -> Replay:
    """Without what the store may have lost: an instance that had received it may still have it."""
    lost_at = max((loss.ended_at for loss in ledger.losses), default=0.0)
    since = min(
        (one for one, data in ledger.data_of.items() if ledger.attempts[data].sent_at > lost_at), default=0
    )
    return {event_id: data for event_id, data in replay.items() if not ledger.losses or event_id >= since}


def _difference(one: Replay, other: Replay) -> str:
    return ", ".join(format_id(event_id) for event_id in sorted(one.keys() ^ other.keys())[:5])


def _must_be_kept(topic: str, ledger: Ledger, since: float) -> set[str]:
    """The data of the events that no retention, deletion or loss can have removed."""
    deleted_at = max((span.ended_at for span in ledger.deletions[topic]), default=0.0)
    lost_at = max((loss.ended_at for loss in ledger.losses), default=0.0)
    ids = ledger.by_topic[topic]
    newest = sorted(ids)[-max(0, ledger.retention_events - ledger.unresolved(topic, float("inf"))) :]
    return {ids[one].data for one in newest if ids[one].sent_at > max(deleted_at, lost_at, since)}
