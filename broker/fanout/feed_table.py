"""The feeds there are, by topic; and what logs must keep because it is on its way to their subscribers.

Rules: knows logs and feeds; writes to no subscriber.

A topic's log keeps everything after `Log.hold`, however small its retention. Several feeds may read a topic, each at its
own pace, so the hold may move on to an id only when all of them are written up to it. To know that without looking at
every feed after every pass, a topic has a `mark`, an id, and counts down the feeds that have yet to reach it: at zero
the hold moves to the mark, and the newest id becomes the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from broker.events import EventId
from broker.fanout.feed import Feed, FeedKey
from broker.fanout.subscriber import Subscriber
from broker.log.log import Log


@dataclass(slots=True)
class _Topic:
    """A topic with subscribers here.

    Attributes:
        mark: an id that `waiting` of its feeds have yet to be written up to.
        held, later: bytes on their way, up to the mark and after it.
    """

    log: Log
    mark: EventId
    waiting: int = 0
    held: int = 0
    later: int = 0
    subscribers: int = 0
    feeds: dict[Feed, None] = field(default_factory=dict)


class FeedTable:
    """See the module.

    Args:
        complete_to: up to where the logs are complete; see `stores.base.Store`.
        on_written: called with a topic whose hold has moved on.
        on_shrunk: called when `backlog` has become less.

    Attributes:
        backlog: bytes of frames that logs hold because they are on their way.
    """

    def __init__(
        self,
        complete_to: Callable[[], EventId],
        on_written: Callable[[str], None],
        on_shrunk: Callable[[], None],
    ) -> None:
        self.backlog = 0
        self._complete_to = complete_to
        self._on_written = on_written
        self._on_shrunk = on_shrunk
        self._topics: dict[str, _Topic] = {}
        self._feeds: dict[FeedKey, Feed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def count(self, topic: str) -> int:
        """How many are subscribed to `topic` here."""
        known = self._topics.get(topic)
        return known.subscribers if known is not None else 0

    def subscribers_of(self, topic: str) -> Sequence[Subscriber]:
        """Those who are subscribed to `topic` here, at this moment."""
        known = self._topics.get(topic)
        return [one for feed in known.feeds for one in feed.subscribers] if known is not None else ()

    def backlog_of(self, topic: str) -> int:
        """The same for one topic."""
        known = self._topics.get(topic)
        return known.held + known.later if known is not None else 0

    def join(self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log]) -> Feed:
        """Make `subscriber` one of the feed of `key`, which reads `logs`."""
        feed = self._feeds.get(key) or self._make(key, logs)
        subscriber.feed = feed
        subscriber.place = len(feed.subscribers)
        feed.subscribers.append(subscriber)
        for topic in key.topics:
            self._topics[topic].subscribers += 1
        return feed

    def _make(self, key: FeedKey, logs: Sequence[Log]) -> Feed:
        feed = self._feeds[key] = Feed(key, logs, self._complete_to())
        for topic, log in zip(key.topics, logs, strict=True):
            known = self._topics.get(topic)
            if known is None:
                known = self._topics[topic] = _Topic(log, log.last)
                log.hold = log.last
            known.feeds[feed] = None
            if feed.written < known.mark:
                known.waiting += 1
        return feed

    def leave(self, subscriber: Subscriber) -> None:
        """Take `subscriber` off its feed, and the feed away if it was the last."""
        feed = subscriber.feed
        assert feed is not None
        subscriber.feed = None
        last = feed.subscribers.pop()
        if last is not subscriber:
            feed.subscribers[subscriber.place] = last
            last.place = subscriber.place
        subscriber.place = -1
        for topic in feed.key.topics:
            self._topics[topic].subscribers -= 1
        if not feed.subscribers:
            self._drop(feed)

    def _drop(self, feed: Feed) -> None:
        del self._feeds[feed.key]
        for topic in feed.key.topics:
            known = self._topics[topic]
            del known.feeds[feed]
            if not known.feeds:
                del self._topics[topic]
                known.log.hold = None
                self._on_written(topic)
                self._shrink(known.held + known.later)
            elif feed.written < known.mark:
                self._one_less(topic, known)

    def delivered(self, topic: str, size: int) -> Iterable[Feed]:
        """Note that the log of `topic` has grown by `size` bytes; returns the feeds that are due a pass."""
        known = self._topics.get(topic)
        if known is None:
            return ()
        self.backlog += size
        known.later += size
        if not known.waiting:
            self._set_mark(known)
        return known.feeds

    def begin_pass(self, feed: Feed) -> None:
        """A pass over `feed` begins: it goes as far as the logs go now."""
        feed.unvisited = len(feed.subscribers)
        feed.target = feed.end(self._complete_to())
        feed.is_due = False
        feed.bytes_due = sum(self.backlog_of(topic) for topic in feed.key.topics)

    def end_pass(self, feed: Feed) -> None:
        """The pass over `feed` is done: all its subscribers who aren't lagging have reached its target."""
        before, feed.written = feed.written, feed.target
        feed.unvisited = None
        if not feed.subscribers:
            return  # dropped during the pass
        for topic in feed.key.topics:
            known = self._topics[topic]
            if before < known.mark <= feed.written:
                self._one_less(topic, known)

    def _one_less(self, topic: str, known: _Topic) -> None:
        known.waiting -= 1
        if known.waiting:
            return
        before = known.held + known.later
        known.log.hold, known.held = known.mark, 0
        self._set_mark(known)
        if not known.waiting:  # the passes went further than the mark
            known.log.hold, known.held = known.mark, 0
        self._on_written(topic)
        self._shrink(before - known.held - known.later)

    @staticmethod
    def _set_mark(known: _Topic) -> None:
        known.mark = known.log.last
        known.held, known.later = known.held + known.later, 0
        known.waiting = sum(feed.written < known.mark for feed in known.feeds)

    def _shrink(self, size: int) -> None:
        if size:
            self.backlog -= size
            self._on_shrunk()
