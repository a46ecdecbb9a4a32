"""Clients as they look from behind a proxy: bodies in chunks, and a head that isn't the broker's own.

Beside them `Front`, which is brokers with a proxy before them, and `Swallower`, a broker that dies of every event.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from broker.events import Event
from broker.sse import Decoder
from tests.live.proxies import ProxyProcess
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST
from tests.support.waiting import WAIT_SECONDS

STREAM = {"Accept": "text/event-stream"}
"""What EventSource asks with."""


@dataclass(frozen=True)
class Front:
    """Brokers, and the proxy before them."""

    brokers: Sequence[BrokerProcess]
    proxy: ProxyProcess

    @property
    def broker(self) -> BrokerProcess:
        """The first, or only one."""
        return self.brokers[0]

    @property
    def port(self) -> int:
        return self.proxy.port

    @property
    def subscribers(self) -> int:
        """Open streams of all that run."""
        return sum(int(broker.metric("broker_subscribers")) for broker in self.brokers if broker.running)


class Stream:
    """One stream, asked for as EventSource does, from the address `source`; a context manager.

    Attributes:
        body: all that came so far, without the chunks' frames.
        events: the same, decoded.
        times: when each of `events` came, in monotonic seconds.
    """

    def __init__(
        self,
        port: int,
        target: str,
        headers: Mapping[str, str] = STREAM,
        *,
        seconds: float = WAIT_SECONDS,
        source: str = HOST,
    ) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=seconds, source_address=(source, 0))
        self._connection.request("GET", target, headers=dict(headers))
        self.answer = self._connection.getresponse()
        self.body = b""
        self.events: list[Event] = []
        self.times: list[float] = []
        self._decoder = Decoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()

    def read(self) -> bool:
        """Read once; False at the end, clean or not."""
        try:
            data = self.answer.read1()
        except (http.client.IncompleteRead, ConnectionError):
            return False
        self.body += data
        new = self._decoder.feed(data)
        self.events += new
        self.times += [time.monotonic()] * len(new)
        return bool(data)

    def until(self, count: int) -> list[Event]:
        """Read on until there are `count` events, and return them."""
        while len(self.events) < count:
            assert self.read(), f"ended after {len(self.events)} of {count} events: {self.body[-500:]!r}"
        return self.events

    def opened(self) -> Self:
        """Read `broker.open`; it is the first event."""
        assert self.answer.status == 200
        assert self.until(1)[0].type == "broker.open"
        return self

    @property
    def data(self) -> list[str]:
        """Of the events that somebody published."""
        return [event.data for event in self.events if event.type is None]

    def rest(self) -> bytes:
        """The whole body, once it has ended."""
        while self.read():
            pass
        return self.body


class Swallower:
    """Something at a broker's place that is ready, takes events whole, and closes without an answer; a context manager.

    To whoever sent one, it may have been published.

    Attributes:
        swallowed: how many.
    """

    def __init__(self) -> None:
        self.swallowed = 0
        swallower = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                swallower.swallowed += 1
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_SECONDS)
