"""I2 on a store that goes back to an earlier state, again and again: no subscriber misses an event without a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from broker.events import EventId
from broker.stores.redis.formats import StoreHistory
from tests.stores.scripts_caller import DAY_MS, STATE, Caller
from tests.support.redis_servers import Server
from tests.support.waiting import wait_for

TOPIC = "a"
INSTANCES = 3
SUBSCRIBERS = 2


@dataclass
class Subscriber:
    """A client that reads the topic now and then, at whatever instance.

    Attributes:
        cursor: the id of the last event that it received.
        missing: the acknowledged events that it neither received nor got a gap for.
    """

    cursor: EventId = 0
    missing: set[EventId] = field(default_factory=set)

    def read(self, caller: Caller) -> None:
        read = caller.read_one(TOPIC, self.cursor)
        for upto in _gaps(self.cursor, caller):
            self.missing = {event_id for event_id in self.missing if event_id >= upto}
        self.missing -= set(read.ids)
        self.cursor = max([self.cursor, *read.ids])


def _history(caller: Caller) -> StoreHistory:
    losses = [resumed for lost, seen, resumed in caller.rewinds if seen > lost]
    uncertain = [(lost, resumed) for lost, seen, resumed in caller.rewinds if seen == lost]
    return StoreHistory(
        caller.epoch, caller.born, caller.floor, (caller.born, *sorted(losses)), tuple(uncertain)
    )


def _gaps(cursor: EventId, caller: Caller) -> list[EventId]:
    """The ends of the gaps that the broker reports to a subscriber at `cursor`."""
    history = _history(caller)
    ends = [loss for loss in history.losses if cursor < loss <= caller.seen]
    ends += [high for low, high in history.uncertain if low < cursor < high]
    if cursor > caller.seen:  # the cursor isn't from this store
        ends.append(caller.seen + 1)
    return ends


class World:
    """Instances on one store, and subscribers. The store can return to each earlier state."""

    def __init__(self, client: Redis, ahead_ms: int) -> None:
        client.flushall()
        self._client = client
        self._run = 0
        self._states: list[Mapping[bytes, bytes]] = []
        self._histories: dict[int, StoreHistory] = {}
        self._acknowledged: set[EventId] = set()
        self._callers = [Caller(client, "0") for _ in range(INSTANCES)]
        self._subscribers = [Subscriber() for _ in range(SUBSCRIBERS)]
        self._callers[0].read()
        self._is_ahead = ahead_ms > 0
        if ahead_ms:  # as after a failover from a server with a fast clock
            client.hincrby(STATE, "ms", ahead_ms)
        self._save()

    def _save(self) -> None:
        self._states.append({key: self._client.dump(key) for key in self._client.scan_iter()})  # type: ignore[misc]

    def publish(self, instance: int, count: int) -> None:
        ids = self._callers[instance].publish(*[(TOPIC, b"data: x\n")] * count).ids
        assert self._acknowledged.isdisjoint(ids), "an id was given out twice"
        self._acknowledged.update(ids)
        for subscriber in self._subscribers:
            subscriber.missing.update(ids)
        self._save()

    def read(self, instance: int, subscriber: int) -> None:
        caller = self._callers[instance]
        known = caller.epoch
        self._subscribers[subscriber].read(caller)
        history = _history(caller)
        assert caller.epoch >= known, "an instance would not notice the change"
        assert self._histories.setdefault(caller.epoch, history) == history, "an epoch was used twice"
        self._save()

    def go_back(self, steps: int) -> None:
        """Another server takes over. It lacks the last `steps` changes."""
        self._run += 1
        self._states = self._states[: max(1, len(self._states) - steps)]
        self._client.flushall()
        for key, value in self._states[-1].items():
            self._client.restore(key, 0, value)
        for caller in self._callers:
            caller.run = str(self._run)

    def cut_power(self, steps: int) -> None:
        """The machine loses power, and all instances are on it. The server has lost the last `steps` changes.

        Not modelled with a clock that is days behind: then the lost ids may lie further ahead of it than the margin.
        """
        self.go_back(steps)
        if self._is_ahead:
            return
        self._client.hset(STATE, "suspect", 1)
        self._states.clear()  # the mark is on disk, so the server never goes back to a state without it
        self._save()
        self._callers = [Caller(self._client, str(self._run)) for _ in range(INSTANCES)]

    def settle(self) -> None:
        """Every instance comes back, then every subscriber."""
        for instance in range(INSTANCES):
            self.read(instance, 0)
        self.publish(0, 1)
        for subscriber in range(SUBSCRIBERS):
            self.read(0, subscriber)
            assert not self._subscribers[subscriber].missing


instances, subscribers = st.integers(0, INSTANCES - 1), st.integers(0, SUBSCRIBERS - 1)
steps = st.one_of(
    st.tuples(st.just("publish"), instances, st.integers(1, 2)),
    st.tuples(st.just("read"), instances, subscribers),
    st.tuples(st.sampled_from(["go_back", "go_back", "cut_power"]), st.integers(0, 5)),
)


TWICE_TO_THE_SAME_STATE = (("publish", 0, 1), ("go_back", 0), ("read", 1, 0), ("go_back", 2))
LOSES_WHAT_A_LATE_INSTANCE_SAID = (
    *(("publish", 0, 1), ("go_back", 1), ("read", 1, 0)),
    *(("read", 0, 0), ("go_back", 1)),
)


@example(DAY_MS, TWICE_TO_THE_SAME_STATE)
@example(0, LOSES_WHAT_A_LATE_INSTANCE_SAID)
@given(ahead_ms=st.sampled_from([0, 0, DAY_MS]), steps=st.lists(steps, max_size=16))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_i2_every_subscriber_that_missed_something_is_told(
    empty_server: Server, ahead_ms: int, steps: Sequence[tuple[str, int] | tuple[str, int, int]]
) -> None:
    with empty_server.client() as client:
        world = World(client, ahead_ms)
        for name, *arguments in steps:
            _wait_for_tick(client)
            getattr(world, name)(*arguments)
        _wait_for_tick(client)
        world.settle()


def _server_ms(client: Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _wait_for_tick(client: Redis) -> None:
    """Wait until the server's clock shows another millisecond."""
    before = _server_ms(client)
    wait_for(lambda: _server_ms(client) > before, "the clock goes on")
