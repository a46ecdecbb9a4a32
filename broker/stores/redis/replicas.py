"""This instance's copies of the logs of the topics that it watches.

Rules: plain state changes only, every method is a `def`; what has to be asked of the server is `filling`'s business.

A copy is *live* while every event that is heard on its channel joins on to what it has. Else it *waits*: what is heard
goes to a buffer, the store is read from the copy's `tail` on, and then the buffer is applied. `complete_to` stands still
while a copy that had been live waits: several topics may be read by one subscriber, who is only ever written what lies at
or before it.

What the store itself has lost (`Facts.losses`) becomes an entry of each copy that was there before: nothing but a gap, in
its place between what was before and what came after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from broker import sse
from broker.events import Clock, EventId, id_at, id_seconds
from broker.log.entry import Entry
from broker.log.table import LogTable
from broker.stores.redis.messages import UNKNOWN, Arrival, End, Facts, Held
from broker.stores.redis.replica import TopicReplica, Watermark

BUFFER_BYTES = 4 << 20


class Replicas:
    """See the module.

    Args:
        logs: where the logs are kept within their bounds.
        deliver: called with a topic that somebody may read and by how many bytes it has grown.
        on_hole: called with a copy that has to be read anew.

    Attributes:
        complete_to: up to here all live copies are complete.
        received_to: up to here everything that was said was heard, by those who listened.
        facts: the newest that a read has brought.
    """

    def __init__(
        self,
        logs: LogTable,
        clock: Clock,
        *,
        topic_memory_seconds: float,
        deliver: Callable[[str, int], None],
        on_hole: Callable[[TopicReplica], None],
    ) -> None:
        self.complete_to = Watermark()
        self.received_to = Watermark()
        self.facts: Facts = UNKNOWN
        self._logs = logs
        self._clock = clock
        self._topic_memory_seconds = topic_memory_seconds
        self._deliver = deliver
        self._on_hole = on_hole
        self._copies: dict[str, TopicReplica] = {}
        self._broken: set[TopicReplica] = set()
        self._epoch_heard = 0
        self._held_back: dict[str, EventId] = {}  # by topic, what was delivered too early for some readers

    def __iter__(self) -> Iterator[TopicReplica]:
        return iter(list(self._copies.values()))

    def __len__(self) -> int:
        return len(self._copies)

    def get(self, topic: str) -> TopicReplica | None:
        return self._copies.get(topic)

    def open(self, topic: str) -> TopicReplica:
        """The copy of a topic, made if there is none: it waits then."""
        copy = self._copies.get(topic)
        if copy is None:
            copy = self._copies[topic] = TopicReplica(topic, self._logs.pin(topic, self._clock()))
        return copy

    def drop(self, copy: TopicReplica) -> None:
        """Forget a copy that nobody watches."""
        del self._copies[copy.topic]
        self._broken.discard(copy)
        self._held_back.pop(copy.topic, None)
        self._logs.discard(copy.topic)
        self._check_complete()

    # What is heard

    def heard(self, said: EventId, epoch: int) -> None:
        """Everything said up to `said` was heard, on a connection that is still there."""
        self._epoch_heard = max(self._epoch_heard, epoch)
        self.received_to.rise(said)
        self._check_complete()

    def disconnected(self) -> None:
        """What is said from now on is missed: no copy is live any more."""
        self._epoch_heard = 0  # perhaps of another server than the next one
        for copy in self:
            if copy.is_live:
                self.break_off(copy)

    @property
    def is_whole(self) -> bool:
        """Whether no copy that somebody reads lacks anything."""
        return not self._broken

    def arrived(self, topic: str, arrival: Arrival) -> None:
        """Something was appended to a topic."""
        copy = self._copies.get(topic)
        if copy is None:  # it is watched no more
            self.heard(arrival.said, arrival.epoch)
        elif not copy.is_live:
            self._keep(copy, arrival)
            self.heard(arrival.said, arrival.epoch)
        elif arrival.epoch == self.facts.epoch and arrival.prev <= self._contiguous_to(copy):
            # Before it is delivered, for it may be written as far as that.
            self.heard(arrival.said, arrival.epoch)
            if arrival.last > copy.tail:
                self._append(copy, arrival)
        else:
            if arrival.epoch != self.facts.epoch:  # nothing else was said before it, so nothing was missed
                copy.contiguous_to = max(copy.contiguous_to, arrival.prev)
            self.break_off(copy)
            self._keep(copy, arrival)
            self.heard(arrival.said, arrival.epoch)
            self._on_hole(copy)

    def _contiguous_to(self, copy: TopicReplica) -> EventId:
        """Up to where a copy surely lacks nothing."""
        return max(copy.tail, copy.contiguous_to, self.complete_to.value if copy.was_live else 0)

    @staticmethod
    def _keep(copy: TopicReplica, arrival: Arrival) -> None:
        if copy.buffer is None:
            return
        copy.buffer_bytes += arrival.size
        if copy.buffer_bytes > BUFFER_BYTES:
            copy.buffer = None
        else:
            copy.buffer.append(arrival)

    def _append(self, copy: TopicReplica, arrival: Arrival) -> None:
        if arrival.end:
            self._end(copy, arrival)
            return
        if arrival.retention is not None:
            copy.log.retention = arrival.retention
        log, prev, tail = copy.log, arrival.prev, copy.tail
        for event_id, frame in arrival.entries:
            if event_id > tail:
                log.append_after(prev, event_id, frame)
            prev = event_id
        copy.tail = prev
        self._grown(copy, arrival.size)

    def _grown(self, copy: TopicReplica, size: int) -> None:
        self._logs.appended(copy.topic, copy.log, self._clock())
        if copy.was_live:
            self._deliver(copy.topic, size)
            if copy.log.last > self.complete_to.value:
                self._held_back[copy.topic] = copy.log.last

    def _end(self, copy: TopicReplica, arrival: Arrival) -> None:
        if arrival.reason == "deleted":
            self._clear(copy, arrival.end)
        else:
            self._close(copy, End(arrival.end, arrival.prev, arrival.reason))

    def _close(self, copy: TopicReplica, end: End) -> None:
        """The topic has ended. Where that lies behind what was read, the store went back to it: then it ends after the loss."""
        log = copy.log
        self._mark(copy, end.id if end.id > log.last else self.facts.losses[-1])
        end_id = max(end.id, log.last)
        frame = sse.end(copy.topic, end.reason, end_id)
        log.close(end_id, frame, end.prev)
        copy.tail = max(copy.tail, end.id)
        self._grown(copy, len(frame))

    def _clear(self, copy: TopicReplica, end: EventId) -> None:
        frame = sse.end(copy.topic, "deleted", end)
        copy.log.clear(end, frame)
        self._logs.retain(copy.topic, copy.log, None)
        copy.tail = end
        self._grown(copy, len(frame))

    # Waiting, and going on

    def break_off(self, copy: TopicReplica) -> None:
        """A copy is live no more: something was missed, or may be."""
        copy.is_live = False
        copy.buffer, copy.buffer_bytes = [], 0
        if copy.was_live:
            self._broken.add(copy)

    def restart(self, copy: TopicReplica) -> None:
        """What was heard for a waiting copy so far doesn't count: it will be read anew."""
        copy.buffer, copy.buffer_bytes = [], 0

    def begin(self, copy: TopicReplica, after: EventId, held: Held, facts: Facts, last: EventId) -> None:
        """The first of what the store holds of a topic, `last` being the store's last id: all after `after`."""
        log = copy.log
        log.cleared_at, log.cleared_after = held.cleared_at, held.cleared_after
        if held.end is not None:  # it comes in any case, so that it is known who has it
            after = min(after, held.end.prev)
        copy.losses_applied_to = max(after, facts.born)
        if held.last is None:
            forgotten = id_at(id_seconds(last) - self._topic_memory_seconds)
            log.last = copy.tail = max(facts.born, facts.floor, forgotten)
            copy.losses_applied_to = facts.born  # it tells of all there ever was, so also of what was lost
            return
        log.named = True
        log.complete_from = after
        copy.tail = max(after, held.cleared_at)
        before = held.last if held.end is None else held.end.prev
        log.last = held.entries[0][1] if held.entries else before

    def go_on(self, copy: TopicReplica, held: Held, facts: Facts) -> None:
        """What the store holds behind a copy's tail."""
        self.learn(facts)
        before = copy.log.footprint
        self._logs.retain(copy.topic, copy.log, held.retention)
        if copy.log.end is not None and (held.end is None or held.end.id > copy.log.end.id):
            copy.log.reopen()
        if held.cleared_at > copy.tail and not copy.was_live:
            copy.log.cleared_at, copy.log.cleared_after = held.cleared_at, held.cleared_after
            copy.tail = held.cleared_at
            copy.log.last = max(copy.log.last, copy.tail)
        elif held.cleared_at > copy.tail:
            self._mark(copy, held.cleared_at)
            gap = "trimmed" if held.cleared_after > copy.tail else None
            if gap is not None and held.cleared_after > copy.log.last:
                copy.log.append_after(held.cleared_after, held.cleared_after, b"", gap)
            self._clear(copy, held.cleared_at)
        for event_id, prev, frame in held.entries:
            if event_id <= copy.tail:
                continue
            self._mark(copy, event_id)
            joins = prev <= max(self._contiguous_to(copy), copy.log.last)
            copy.log.append_after(prev, event_id, frame, None if joins else "trimmed")
            copy.tail = event_id
        if held.last is not None and not held.more:
            self._reach_last(copy, held.last if held.end is None else held.end.prev)
            if held.end is not None and copy.log.end is None:
                self._close(copy, held.end)
        self._grown(copy, max(0, copy.log.footprint - before))

    def _reach_last(self, copy: TopicReplica, last: EventId) -> None:
        """The topic's last event is `last`, and the store may have given it up."""
        self._mark(copy, last)
        if last > copy.tail:
            if last > copy.log.last:
                if copy.was_live:
                    copy.log.append_after(last, last, b"", "trimmed")
                copy.log.last = last
            copy.tail = last

    def go_live(self, copy: TopicReplica, last: EventId) -> bool:
        """Apply what was heard meanwhile; `last` is the store's last id when it was read. False: it must be read again."""
        if copy.buffer is None:
            return False
        self._mark(copy, max(last, *self.facts.losses))
        copy.contiguous_to = max(copy.contiguous_to, last)
        buffer, copy.buffer, copy.buffer_bytes = copy.buffer, [], 0
        for arrival in buffer:
            if arrival.last <= copy.tail:
                continue
            if arrival.epoch != self.facts.epoch or arrival.prev > max(copy.tail, last):
                return False
            self._append(copy, arrival)
        copy.is_live = copy.was_live = True
        self._broken.discard(copy)
        self._check_complete()
        return True

    def _check_complete(self) -> None:
        """Let `complete_to` rise as far as it may, and deliver what waited for that."""
        if self._broken or self.received_to.value <= self.complete_to.value:
            return
        if self._epoch_heard > self.facts.epoch:
            return  # what the store has lost is not in the logs yet
        self.complete_to.rise(self.received_to.value)
        if self._held_back:
            due = [topic for topic, last in self._held_back.items() if last <= self.complete_to.value]
            for topic in due:
                del self._held_back[topic]
                self._deliver(topic, 0)

    def put_in_front(
        self, copy: TopicReplica, entries: Sequence[tuple[EventId, EventId, bytes]], complete_from: EventId
    ) -> None:
        """What the store holds between `complete_from` and where the copy begins; `entries` are `(id, prev, frame)`."""
        made: list[Entry] = []
        losses = [
            loss
            for loss in self.facts.losses
            if complete_from < loss <= copy.log.complete_from and loss > self.facts.born
        ]
        for event_id, prev, frame in entries:
            while losses and losses[0] <= event_id:
                made.append(_loss(losses.pop(0)))
            made.append(Entry(event_id, prev, frame))
        made += map(_loss, losses)
        copy.log.prepend(made, complete_from)
        self._logs.filled(copy.topic, copy.log)

    # What the store knows of its past

    def learn(self, facts: Facts) -> None:
        """Facts that a read has brought; copies that are live are told of what was lost."""
        if facts.epoch <= self.facts.epoch:
            return
        self.facts = facts
        for copy in self:
            if copy.is_live:
                self._mark(copy, facts.losses[-1])
        self._check_complete()

    def _mark(self, copy: TopicReplica, upto: EventId) -> None:
        """Put the losses up to `upto` that the copy lacks into its log."""
        for loss in self.facts.losses:
            if copy.losses_applied_to < loss <= upto:
                copy.losses_applied_to = loss
                if loss > copy.log.last:
                    copy.log.lose(loss)
                    self._grown(copy, 0)


def _loss(event_id: EventId) -> Entry:
    return Entry(event_id, event_id, b"", gap="lost")
