"""What a reader is written where topics of its end, and what is left for it to read.

Rules: reads logs, writes nothing. Nothing follows the end of a topic on the same connection, so a piece stops there, and
its reader goes on with the topics that are left. Many topics may end at once, for many readers: what they are written is
made once for all who are at the same cursor, and leaves as one piece.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.events import EventId
from broker.feed import PIECE_BYTES, Feed, FeedKey, Piece


class Stretch(NamedTuple):
    """A piece that goes on behind the ends of topics: what is written at once.

    Attributes:
        chunk: whole events, as they go over the wire.
        end: the cursor of who has been written it.
        events: how many there are in it.
        ended: the topics whose ends are in it.
        rest: what is to be read from then on; the feed itself where nothing has ended.
        gaps: the reasons of the gaps that it tells of.
    """

    chunk: bytes
    end: EventId
    events: int
    ended: tuple[str, ...]
    rest: Feed
    gaps: tuple[str, ...]


def stretch_after(feed: Feed, cursor: EventId, complete_to: EventId) -> Stretch | None:
    """The next stretch for a subscriber of `feed` at `cursor`, or None where it lacks nothing."""
    pieces: list[Piece] = []
    size = 0
    rest = feed
    while size < PIECE_BYTES:
        piece = rest.piece_after(cursor, rest.end(complete_to)) if rest.logs else None
        if piece is None or (pieces and size + len(piece.chunk) > PIECE_BYTES):
            break
        pieces.append(piece)
        size += len(piece.chunk)
        cursor = piece.end
        if piece.ended is None:
            break
        rest = _without(rest, piece.ended)
    if not pieces:
        return None
    chunk = pieces[0].chunk if len(pieces) == 1 else b"".join(piece.chunk for piece in pieces)
    ended = tuple(piece.ended for piece in pieces if piece.ended is not None)
    gaps = tuple(reason for piece in pieces for reason in piece.gaps)
    return Stretch(chunk, cursor, sum(piece.events for piece in pieces), ended, rest, gaps)


def _without(feed: Feed, topic: str) -> Feed:
    """A feed of what `feed` reads, less `topic`; with no subscribers."""
    key = feed.key
    keep = [index for index, name in enumerate(key.topics) if name != topic]
    floors = tuple(key.floors[index] for index in keep) if key.floors else ()
    left = FeedKey(tuple(key.topics[index] for index in keep), key.enveloped, floors)
    return Feed(left, [feed.logs[index] for index in keep], feed.written)
