"""The feeds that subscribers read, by topic, and how much the logs must keep because it is on its way to them.

Rules: knows logs and feeds; writes to no subscriber.

A topic's log keeps everything after its `trim_barrier`. Several feeds may read the log, each at its own pace, so the
barrier may move on to an id only when all of them are written up to it. To know that without visiting every feed after
every pass, a topic has a `mark`, an id, and counts the feeds that have yet to reach it. At zero the barrier moves to
the mark, and the newest id becomes the next mark. A feed knows for which topics it is behind the mark: few of its topics
get events at once, and a pass doesn't look at the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.events import EventId
from broker.fanout.backpressure import MAX_BYTES, Backpressure
from broker.fanout.feed import Feed, FeedKey
from broker.fanout.feed_group import NOT_DUE, FeedGroup, WatchedTopic
from broker.fanout.owner import LogSource
from broker.fanout.subscriber import Subscriber
from broker.log.log import Log
from broker.sse import trace_of


class FeedTable:
    """All feeds with their subscribers, as groups.

    Attributes:
        backlog: bytes of frames that logs keep because they are on their way.
        backpressure: where publishers wait while `backlog` is too large.
        is_paused: whether the store was asked to pause; it resumes at half of `MAX_BYTES`.
    """

    def __init__(self, logs: LogSource) -> None:
        self.backlog = 0
        self.backpressure = Backpressure(self)
        self._logs = logs
        self.is_paused = False
        self._topics: dict[str, WatchedTopic] = {}
        self._groups: dict[FeedKey, FeedGroup] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def count(self, topic: str) -> int:
        """How many subscribers `topic` has here."""
        state = self._topics.get(topic)
        return 0 if state is None else state.subscribers

    def topics(self) -> list[str]:
        """The topics that have subscribers here."""
        return list(self._topics)

    def some_subscribers_of(self, topic: str, limit: int) -> list[Subscriber]:
        """At most `limit` of the subscribers that `topic` has here."""
        state = self._topics.get(topic)
        found: list[Subscriber] = []
        for group in () if state is None else state.groups:
            found += group.subscribers[: limit - len(found)]
            if len(found) == limit:
                break
        return found

    def subscribers_of(self, topic: str) -> Sequence[Subscriber]:
        """The subscribers that `topic` has here now."""
        state = self._topics.get(topic)
        return () if state is None else [one for group in state.groups for one in group.subscribers]

    def backlog_of(self, topic: str) -> int:
        """The part of `backlog` that is the topic's."""
        state = self._topics.get(topic)
        return 0 if state is None else state.bytes_to_mark + state.bytes_after_mark

    # Traces

    def newest_traces(self, topic: str, size: int) -> tuple[EventId, Sequence[str]]:
        """The topic's last id here, and the traces of its newest events, of `size` bytes in all."""
        state = self._topics.get(topic)
        if state is None:
            return 0, ()
        found: dict[str, None] = {}
        for entry in state.log.between(0, state.log.last + 1):
            size -= len(entry.frame)
            trace = trace_of(entry.frame)
            if trace is not None:
                found[trace] = None
            if size <= 0:
                break
        return state.log.last, tuple(found)

    def written_to(self, topic: str) -> EventId | None:
        """The id up to which all subscribers of `topic` that don't lag have everything; None without subscribers. Visits its feeds."""
        state = self._topics.get(topic)
        return None if state is None else min(group.written for group in state.groups)

    # Subscribers

    def join(self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log]) -> Feed:
        """Add `subscriber` to the group of `key`. `logs` are those of its topics."""
        group = self._groups.get(key) or self._make(key, logs)
        subscriber.feed = group.feed
        subscriber.feed_index = len(group.subscribers)
        group.subscribers.append(subscriber)
        if subscriber.WRITES > 1:
            group.polls += 1
        for topic in key.topics:
            self._topics[topic].subscribers += 1
        return group.feed

    def _make(self, key: FeedKey, logs: Sequence[Log]) -> FeedGroup:
        group = self._groups[key] = FeedGroup(Feed(key, logs, self._logs), self._logs.complete_to)
        for topic, log in zip(key.topics, logs, strict=True):
            state = self._topics.get(topic)
            if state is None:
                state = self._topics[topic] = WatchedTopic(topic, log, log.last)
            # Its readers are at `written`, which may lie before the log's end, and before those of other feeds.
            barrier = log.last if log.trim_barrier is None else log.trim_barrier
            log.trim_barrier = min(barrier, group.written)
            state.groups[group] = None
            if group.written < state.mark:
                group.behind[state] = None
                state.groups_behind += 1
        return group

    def leave(self, subscriber: Subscriber) -> None:
        """Take `subscriber` off its feed, and drop the feed if it was the last."""
        assert subscriber.feed is not None
        feed, index = subscriber.feed, subscriber.feed_index
        subscriber.feed, subscriber.feed_index = None, -1
        self._leave(subscriber, feed, index)

    def move(self, subscriber: Subscriber, key: FeedKey, logs: Sequence[Log]) -> Feed:
        """Have `subscriber` leave its feed for that of `key`, another one.

        It joins first: else the logs could drop the entries that they hold for it.
        """
        assert subscriber.feed is not None
        old, index = subscriber.feed, subscriber.feed_index
        feed = self.join(subscriber, key, logs)
        self._leave(subscriber, old, index)
        return feed

    def _leave(self, subscriber: Subscriber, feed: Feed, index: int) -> None:
        group = self._groups[feed.key]
        last = group.subscribers.pop()
        if last is not subscriber:
            group.subscribers[index] = last
            last.feed_index = index
        if subscriber.WRITES > 1:
            group.polls -= 1
        for topic in group.feed.key.topics:
            self._topics[topic].subscribers -= 1
        if not group.subscribers:
            self._drop(group)

    def _drop(self, group: FeedGroup) -> None:
        del self._groups[group.feed.key]
        for topic in group.feed.key.topics:
            state = self._topics[topic]
            del state.groups[group]
            if not state.groups:
                del self._topics[topic]
                state.log.trim_barrier = None
                self._logs.trim(topic)
                self._written(state, state.bytes_to_mark + state.bytes_after_mark)
            elif state in group.behind:
                self._group_reached_mark(state)

    # Passes

    def delivered(self, topic: str, size: int) -> Iterable[FeedGroup]:
        """The log of `topic` has grown by `size` bytes; returns the groups that are due a pass."""
        state = self._topics.get(topic)
        if state is None:
            return ()
        self.backlog += size
        state.bytes_after_mark += size
        if not state.groups_behind:
            self._move_mark(state)
        return state.groups

    def resting(self, topic: str) -> FeedGroup | None:
        """The group of `topic` if it is the only one, reads nothing else, is written as streams are, and nothing is on its way to it; else None."""
        state = self._topics.get(topic)
        if state is None or state.groups_behind or len(state.groups) > 1:
            return None
        (group,) = state.groups
        return None if group.is_queued or group.polls or group.feed.only_log is None else group

    def written_at_once(self, topic: str, group: FeedGroup, event_id: EventId) -> None:
        """All subscribers of the resting `group` were written the event that the log of `topic` has grown by. Its store trims the log."""
        state = self._topics[topic]
        group.written = state.mark = state.log.trim_barrier = event_id

    def begin_pass(self, group: FeedGroup) -> None:
        """Begin a pass to the present end of the logs."""
        group.unvisited = len(group.subscribers)
        group.target = group.feed.end()
        group.pass_published_at, group.published_at = group.published_at, NOT_DUE
        waiting = 0
        for state in group.behind:
            waiting += state.bytes_to_mark + state.bytes_after_mark
        group.bytes_due, group.bytes_delivered = max(waiting, group.bytes_delivered), 0

    def end_pass(self, group: FeedGroup) -> None:
        """End the pass: all subscribers that don't lag have reached its target."""
        group.written = group.target
        group.unvisited = None
        if not group.subscribers:
            return  # dropped during the pass
        for state in list(group.behind):
            if state.mark <= group.written:
                del group.behind[state]
                self._group_reached_mark(state)

    def passed(self, group: FeedGroup, target: EventId) -> None:
        """A pass has begun and ended in one step, which has brought all subscribers of one log to its end, `target`."""
        group.published_at = NOT_DUE
        group.is_queued = False
        group.bytes_delivered = 0
        group.written = target
        if group.behind:
            state, _ = group.behind.popitem()
            self._group_reached_mark(state)

    def _group_reached_mark(self, state: WatchedTopic) -> None:
        state.groups_behind -= 1
        if state.groups_behind:
            return
        written = state.bytes_to_mark
        state.log.trim_barrier = state.mark
        state.bytes_to_mark = 0
        if state.mark < state.log.last:
            self._move_mark(state)
            if not state.groups_behind:  # the passes went further than the mark
                written += state.bytes_to_mark
                state.log.trim_barrier, state.bytes_to_mark = state.mark, 0
        self._logs.trim(state.name)
        self._written(state, written)

    @staticmethod
    def _move_mark(state: WatchedTopic) -> None:
        state.mark = state.log.last
        state.bytes_to_mark, state.bytes_after_mark = state.bytes_to_mark + state.bytes_after_mark, 0
        state.groups_behind = 0
        for group in state.groups:
            if group.written < state.mark:
                group.behind[state] = None
                state.groups_behind += 1

    def _written(self, state: WatchedTopic, size: int) -> None:
        """`size` bytes of a topic have left: subtract them from the backlog."""
        self.backlog -= size
        if self.backpressure.queued:
            self.backpressure.admit((state.name,))
        if self.is_paused and self.backlog <= MAX_BYTES // 2:
            self.is_paused = False
            self._logs.resume()
