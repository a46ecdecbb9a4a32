"""`Front`, which is brokers with a proxy before them, and `Swallower`, a broker that dies at every event."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.live.proxies import ProxyProcess
from tests.support.broker_process import BrokerProcess
from tests.support.http import HOST
from tests.support.waiting import WAIT_SECONDS


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


class Swallower:
    """Something at a broker's place that is ready, takes events whole, and closes without an answer; a context manager.

    A client can't know whether its event was published.

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
