"""Many streams and many topics, cheaply: sockets that are never read, and topics with an event each."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.support.broker_process import BrokerProcess
from tests.support.event_stream import ACCEPT, subscribe_request
from tests.support.http import HOST, exchange, request
from tests.support.waiting import wait_for

LINES_PER_REQUEST = 5000


def make_topics(broker: BrokerProcess, names: Sequence[str]) -> None:
    """Publish an event to each topic."""
    for at in range(0, len(names), LINES_PER_REQUEST):
        body = "".join(f'{{"topic": "{name}", "data": "x"}}\n' for name in names[at : at + LINES_PER_REQUEST])
        head = ("Content-Type: application/x-ndjson",)
        answer = exchange(broker.port, request("POST", "/topics", *head, body=body.encode()))
        assert answer.status == 200, answer


@contextmanager
def silent_streams(broker: BrokerProcess, topics: Sequence[str]) -> Iterator[None]:
    """A stream of each of `topics`, which may name a topic several times; all are open when the context begins."""
    with ExitStack() as stack:
        before = broker.metric("broker_subscribers")
        for topic in topics:
            sock = stack.enter_context(socket.create_connection((HOST, broker.port)))
            sock.sendall(subscribe_request(f"/topics/{topic}", ACCEPT))
        wait_for(
            lambda: broker.metric("broker_subscribers") >= before + len(topics), "the streams to be open"
        )
        yield
