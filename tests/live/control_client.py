"""Another subscriber on the same broker: whatever is done to the broker, it misses nothing meanwhile (I9).

A witness publishes to a topic of its own, the next event once the last one has arrived, and follows it on two streams:
plain, and in the envelope form together with the topic that is being abused. So it also tells how long nothing moved.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from types import TracebackType
from typing import Self

from broker.sse import Decoder
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST, JSON, Connection, exchange, request
from tests.support.waiting import wait_for

TOPIC = "witness"
ABUSED = "abused"
"""The topic that tests send their bad requests to, where they don't need one of their own."""
STALL_SECONDS = 5.0
"""How long a witness may wait for an event: generous, two cores are shared, and yet no request may stop the broker for it."""
PAUSE_SECONDS = 0.01
STREAMS = 2
"""How many a witness has open."""


class Witness:
    """See the module; a context manager around what is witnessed."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self._stop = threading.Event()
        self._streams = [
            _Stream(broker.port, f"/topics/{TOPIC}"),
            _Stream(broker.port, f"/topics?topic={TOPIC}&topic={ABUSED}&envelope=json"),
        ]
        self._publisher = threading.Thread(target=self._publish, name="witness", daemon=True)
        self._published: list[str] = []
        self._longest = 0.0
        self._logged = 0
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._publisher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._publisher.join(4 * STALL_SECONDS)
        for stream in self._streams:
            stream.connection.socket.close()

    def _publish(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._broker.port, timeout=4 * STALL_SECONDS)
        try:
            while not self._stop.wait(PAUSE_SECONDS):
                data = str(len(self._published))
                began = time.monotonic()
                connection.request("POST", f"/topics/{TOPIC}", data)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 201, f"the witness's event was answered {answer.status}"
                self._published.append(data)
                for stream in self._streams:
                    stream.read_until(len(self._published), 4 * STALL_SECONDS)
                self._longest = max(self._longest, time.monotonic() - began)
        except BaseException as error:
            self._error = error
        finally:
            connection.close()

    def check(self) -> None:
        """Fail unless all that was published so far has arrived, once and in order, without a long silence since the
        last check, and the broker lives and has logged no defect."""
        published = len(self._published)
        wait_for(lambda: self._error or len(self._published) > published, "the witness's next event", 60)
        assert self._error is None, f"the witness was disturbed: {self._error!r}"
        expected = self._published[:published]
        for stream in self._streams:
            assert stream.seen[:published] == expected, stream.target
        longest, self._longest = self._longest, 0.0
        assert longest < STALL_SECONDS, f"nothing moved for {longest:.1f} s"
        self._check_log()

    def _check_log(self) -> None:
        output = self._broker.output
        logged, self._logged = output[self._logged :], len(output)
        assert self._broker.running, logged
        assert "Traceback" not in logged, logged
        assert " ERROR " not in logged, logged


class _Stream:
    """What a witness sees on one stream of its own topic."""

    def __init__(self, port: int, target: str) -> None:
        self.target = target
        self.seen: list[str] = []
        self._decoder = Decoder()
        self._enveloped = "envelope" in target
        self.connection = Connection(port)
        self.connection.send(request("GET", target))
        head = self.connection.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        self._decoder.feed(self.connection.until(b"\n\n"))  # broker.open

    def read_until(self, count: int, seconds: float) -> None:
        while len(self.seen) < count:
            ended = bool(self.connection.received) or self.connection.more(seconds)
            assert ended, f"the witness's stream {self.target} ended"
            data, self.connection.received = self.connection.received, b""
            for event in self._decoder.feed(data):
                assert event.type != "broker.gap", event
                if not self._enveloped:
                    self.seen.append(event.data)
                elif event.type is None and (envelope := json.loads(event.data))["topic"] == TOPIC:
                    self.seen.append(envelope["data"])


def kept(port: int, topic: str) -> list[tuple[str | None, str]]:
    """What a topic has, as (type, data)."""
    state = exchange(port, request("GET", f"/topics/{topic}", JSON)).json()
    decoder = Decoder()
    events: list[tuple[str | None, str]] = []
    with Connection(port) as connection:
        connection.send(request("GET", f"/topics/{topic}?since=earliest"))
        connection.until(b"\r\n\r\n")
        while True:
            data, connection.received = connection.received, b""
            events += [(event.type, event.data) for event in decoder.feed(data)]
            if len(events) >= state["events"]:
                return events
            assert connection.more()
