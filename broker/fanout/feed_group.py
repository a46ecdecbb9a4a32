"""A feed's subscribers, and a topic's feeds: what `feed_table` keeps, and what a pass of `fanout` changes.

Rules: values; `feed_table` explains marks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.events import EventId
from broker.fanout.feed import Feed
from broker.fanout.subscriber import Subscriber
from broker.log.log import Log

NOT_DUE = -1.0
"""Not None, which would make an object of each time in the compiled build."""


@dataclass(slots=True, eq=False)
class FeedGroup:
    """A feed with its subscribers, and the *pass* over them (see `fanout`).

    Attributes:
        subscribers: in no order; `Subscriber.feed_index` is the index here.
        written: the cursor that every subscriber has reached unless it lags.
        target: how far the present pass goes.
        unvisited: how many subscribers, from the start of the list, the pass has yet to visit; None between passes.
        bytes_due: about how many bytes the pass has for each subscriber.
        bytes_delivered: by how much the logs have grown since the last pass began.
        behind: the topics with a mark that it has yet to reach.
        published_at: when the oldest event that was delivered since the last pass began was published; 0 if that is unknown, and
            NOT_DUE if nothing was delivered.
        pass_published_at: the same for the present pass.
        polls: how many of its subscribers cost more than a write (`Subscriber.WRITES`).
        is_queued: whether it waits for its turn.
        wrote_at: when it last got an event at once; the loop's time.
    """

    feed: Feed
    written: EventId
    subscribers: list[Subscriber] = field(default_factory=list)
    target: EventId = 0
    unvisited: int | None = None
    bytes_due: int = 0
    bytes_delivered: int = 0
    behind: dict[WatchedTopic, None] = field(default_factory=dict)
    published_at: float = NOT_DUE
    pass_published_at: float = NOT_DUE
    polls: int = 0
    is_queued: bool = False
    wrote_at: float = 0.0

    def affordable(self, stop: int, budget: int) -> tuple[int, int]:
        """How many of the subscribers before `stop` take about `budget` writes; and how many writes they take."""
        count = cost = 0 if self.polls else min(stop, budget)
        while count < stop and cost < budget:
            count += 1
            cost += self.subscribers[stop - count].WRITES
        return count, cost


@dataclass(slots=True, eq=False)
class WatchedTopic:
    """A topic with subscribers here.

    Attributes:
        mark: an id that `groups_behind` of `groups` have yet to reach.
        bytes_to_mark, bytes_after_mark: on their way, up to the mark and after it.
    """

    name: str
    log: Log
    mark: EventId
    groups_behind: int = 0
    bytes_to_mark: int = 0
    bytes_after_mark: int = 0
    subscribers: int = 0
    groups: dict[FeedGroup, None] = field(default_factory=dict)
