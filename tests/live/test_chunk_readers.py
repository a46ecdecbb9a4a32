"""requests, urllib3 and the clients built on them: sseclient-py, requests-sse and launchdarkly-eventsource.

They read a body by chunk. Without chunks they wait until a buffer is full, so that events come late, several together, or
never. Each test publishes an event only after the client has returned the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest
import requests
import urllib3
from ld_eventsource import SSEClient as LaunchDarklyClient
from ld_eventsource.config import ConnectStrategy, ErrorStrategy
from requests_sse import EventSource
from sseclient import SSEClient

from broker.sse import Decoder
from tests.support.broker_process import BrokerProcess
from tests.support.cutting_proxy import FRAME_BYTES, Cut, CuttingProxy

SECONDS = 20
EVENTS = 20
ACCEPT = {"Accept": "text/event-stream"}

Texts = Iterator[str]
"""The data of each event, as soon as the client returns it."""


@contextmanager
def requests_lines(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=SECONDS) as response:
        yield (line[6:].decode() for line in response.iter_lines() if line.startswith(b"data: "))


@contextmanager
def requests_content(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=SECONDS) as response:
        yield decoded(response.iter_content(chunk_size=None))


@contextmanager
def urllib3_stream(url: str) -> Iterator[Texts]:
    with urllib3.PoolManager(timeout=SECONDS) as pool:
        response = pool.request("GET", url, headers=ACCEPT, preload_content=False)
        with closing(response):
            yield decoded(response.stream())


def decoded(pieces: Iterator[bytes]) -> Texts:
    decoder = Decoder()
    return (event.data for piece in pieces for event in decoder.feed(piece))


@contextmanager
def sseclient_py(url: str) -> Iterator[Texts]:
    with requests.get(url, headers=ACCEPT, stream=True, timeout=SECONDS) as response:
        yield (event.data for event in SSEClient(iter(response)).events())


@contextmanager
def requests_sse(url: str) -> Iterator[Texts]:
    with EventSource(url, timeout=SECONDS, max_connect_retry=0) as source:
        yield (event.data or "" for event in source)


@contextmanager
def launchdarkly(url: str) -> Iterator[Texts]:
    strategy = ConnectStrategy.http(url, urllib3_request_options={"timeout": SECONDS})
    with closing(LaunchDarklyClient(strategy, error_strategy=ErrorStrategy.always_fail())) as client:
        yield (event.data for event in client.events)


CLIENTS = [requests_lines, requests_content, urllib3_stream, sseclient_py, requests_sse, launchdarkly]


@pytest.fixture(scope="module")
def chunking_broker() -> Iterator[BrokerProcess]:
    with BrokerProcess() as process:
        yield process


@pytest.mark.parametrize("client", CLIENTS)
def test_each_event_arrives_before_the_next_is_published(
    chunking_broker: BrokerProcess, client: Callable[[str], AbstractContextManager[Texts]]
) -> None:
    topic = client.__name__
    with client(f"{chunking_broker.url}/topics/{topic}") as texts:
        assert next(texts) == f'{{"topics":["{topic}"]}}'
        for number in range(EVENTS):
            chunking_broker.publish(topic, f"event {number}")
            assert next(texts) == f"event {number}"


def publish_last(broker: BrokerProcess, topic: str) -> None:
    answer = requests.post(f"{broker.url}/topics/{topic}?end=true", data=b"last", timeout=SECONDS)
    assert answer.status_code == 201


def test_a_stream_that_ends_is_whole(chunking_broker: BrokerProcess) -> None:
    with requests_lines(f"{chunking_broker.url}/topics/whole") as texts:
        next(texts)
        publish_last(chunking_broker, "whole")
        assert next(texts) == "last"
        assert '"reason":"closed"' in next(texts)
        assert next(texts, None) is None


@pytest.mark.parametrize("offset", [0, FRAME_BYTES + len("\r\n")], ids=["within a chunk", "between chunks"])
def test_a_stream_that_is_cut_is_an_error(chunking_broker: BrokerProcess, offset: int) -> None:
    """Though the connection was closed as cleanly as after an end: without chunks both would look the same."""
    topic = f"cut.{offset}"
    with (
        CuttingProxy(chunking_broker.port, [Cut(b"data: e00\n", offset)]) as proxy,
        requests_lines(f"{proxy.url}/topics/{topic}") as texts,
    ):
        next(texts)
        chunking_broker.publish(topic, "e00")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(texts)
