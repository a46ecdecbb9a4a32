"""A well-behaved client of a broker that a test misuses: it must not miss an event (I9).

It publishes to a topic of its own, each event once the one before has arrived. It reads that topic on two streams: one
plain, and one in the envelope form together with the topic that is misused.
"""

from __future__ import annotations

import json
import threading
from typing import Self

from broker.events import Event
from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import Stream
from tests.support.http import JSON, exchange, request
from tests.support.publisher import Publisher
from tests.support.waiting import WAIT_SECONDS, wait_for

TOPIC = "control"
MISUSED = "misused"
"""The topic for bad requests of tests that need none of their own."""
PAUSE_SECONDS = 0.01
STREAMS = 2
"""How many streams a control client has open."""


class ControlClient:
    """See the module; a context manager around what the broker has to bear."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self._stop = threading.Event()
        self._streams = [
            _ControlStream(broker.port, f"/topics/{TOPIC}"),
            _ControlStream(broker.port, f"/topics?topic={TOPIC}&topic={MISUSED}&envelope=json"),
        ]
        self._publisher = Publisher(broker.port)
        self._thread = threading.Thread(target=self._publish, name="control client", daemon=True)
        self._logged = 0
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        for stream in self._streams:
            stream.socket.close()

    def _publish(self) -> None:
        try:
            with self._publisher as publisher:
                while not self._stop.wait(PAUSE_SECONDS):
                    publisher.publish(TOPIC, str(len(publisher.published)))
                    for stream in self._streams:
                        stream.wait_for_seen(len(publisher.published))
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Fail unless everything published so far has arrived, once and in order, more can be published, and the broker
        runs and has logged no defect."""
        published = self._publisher.published
        count = len(published)
        wait_for(lambda: self._error or len(published) > count, "the control client's next event", 60)
        assert self._error is None, f"the control client was disturbed: {self._error!r}"
        for stream in self._streams:
            assert stream.seen[:count] == published[:count], stream.target
        self._check_log()

    def _check_log(self) -> None:
        output = self._broker.output
        logged, self._logged = output[self._logged :], len(output)
        assert self._broker.running, logged
        assert "Traceback" not in logged, logged
        assert " ERROR " not in logged, logged


class _ControlStream(Stream):
    """One stream of a control client.

    Attributes:
        seen: the data of all events of the client's own topic.
    """

    def __init__(self, port: int, target: str) -> None:
        super().__init__(port, target)
        self.target = target
        self.seen: list[str] = []
        self.opened()

    def feed(self, data: bytes) -> list[Event]:
        events = super().feed(data)
        for event in events:
            assert event.type != "broker.gap", event
            if "envelope" not in self.target:
                self.seen += [event.data] if event.type != "broker.open" else []
            elif event.type is None and (envelope := json.loads(event.data))["topic"] == TOPIC:
                self.seen.append(envelope["data"])
        return events

    def wait_for_seen(self, count: int) -> None:
        while len(self.seen) < count:
            assert self.read(), f"the control client's stream {self.target} ended"


def kept(port: int, topic: str) -> list[tuple[str | None, str]]:
    """The retained events of a topic, as (type, data)."""
    state = exchange(port, request("GET", f"/topics/{topic}", JSON)).json()
    with Stream(port, f"/topics/{topic}?since=earliest") as stream:
        return [(event.type, event.data) for event in stream.wait_for_events(state["events"])]
