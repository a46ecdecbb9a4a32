"""requests, which reads by chunk: what a stream that ends and one that is cut look like to it."""

from __future__ import annotations

import pytest
import requests

from tests.live.blocking_clients import requests_lines
from tests.support.broker_process import BrokerProcess
from tests.support.cutting_proxy import FRAME_BYTES, Cut, CuttingProxy


def test_a_stream_that_ends_is_whole(broker: BrokerProcess) -> None:
    with requests_lines(f"{broker.url}/topics/whole") as texts:
        next(texts)
        broker.publish("whole", "last", end="true")
        assert next(texts) == "last"
        assert '"reason":"closed"' in next(texts)
        assert next(texts, None) is None


@pytest.mark.parametrize("offset", [0, FRAME_BYTES + len("\r\n")], ids=["within a chunk", "between chunks"])
def test_a_stream_that_is_cut_is_an_error(broker: BrokerProcess, offset: int) -> None:
    """Though the connection was closed as cleanly as after an end: without chunks both would look the same."""
    topic = f"cut.{offset}"
    with (
        CuttingProxy(broker.port, [Cut(b"data: e00\n", offset)]) as proxy,
        requests_lines(f"{proxy.url}/topics/{topic}") as texts,
    ):
        next(texts)
        broker.publish(topic, "e00")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(texts)
