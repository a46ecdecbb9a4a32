"""The last piece and the last batch that were cut from a feed: many subscribers get the same ones.

Rules: the owner forgets both when a log has grown.
"""

from __future__ import annotations

from broker.events import EventId
from broker.fanout.feed import Batch, Feed, Piece


class Cuts:
    """Cuts pieces and batches from feeds.

    Attributes:
        last_piece, last_batch: with the feed and the cursors that they were cut for; None to cut anew.
    """

    def __init__(self) -> None:
        self.last_piece: tuple[Feed, EventId, EventId, Piece | None] | None = None
        self.last_batch: tuple[Feed, EventId, Batch] | None = None

    def piece_after(self, feed: Feed, cursor: EventId, target: EventId) -> Piece | None:
        """The next piece. A pass takes several turns, all with the same one."""
        last = self.last_piece
        if last is not None and last[0] is feed and last[1] == cursor and last[2] == target:
            return last[3]
        piece = feed.piece_after(cursor, target)
        self.last_piece = feed, cursor, target, piece
        return piece

    def batch_after(self, feed: Feed, cursor: EventId) -> Batch | None:
        """The next batch. Many subscribers reconnect with the same cursor, or meet the same ends."""
        last = self.last_batch
        if last is not None and last[0] is feed and last[1] == cursor:
            return last[2]
        batch = feed.batch_after(cursor)
        if batch is not None:
            self.last_batch = feed, cursor, batch
        return batch
