"""The blocking Python client behind nginx, HAProxy and Caddy, over TLS: kept connections, streams, restarts of the proxy."""

from __future__ import annotations

import ssl

import pytest

from broker.client import BlockingClient, Cancelled, End
from tests.live.conftest import Behind
from tests.live.proxied import Front
from tests.support.waiting import WAIT_SECONDS, wait_for


def client_of(front: Front) -> BlockingClient:
    """A client that trusts the proxy's certificate, and waits for a proxy that restarts."""
    tls = ssl.create_default_context(cafile=front.proxy.authority)
    return BlockingClient(front.proxy.tls_url, tls=tls, patience_seconds=WAIT_SECONDS, max_delay_seconds=0.2)


def restart(front: Front) -> None:
    front.proxy.__exit__()
    front.proxy.__enter__()


def texts(client: BlockingClient, topic: str) -> tuple[list[str], str]:
    """The data of all events of a topic, and why it has ended."""
    *events, end = client.follow(topic, ends=True)
    assert isinstance(end, End)
    return [event.data for event in events], end.reason


def test_the_proxy_restarts_between_two_requests(behind: Behind) -> None:
    front = behind()
    with client_of(front) as client:
        ids = [client.publish("a", "1"), client.publish("a", "2")]
        restart(front)
        ids.append(client.publish("a", "3", end=True))
        assert [event.id for event in client.history("a").events] == ids


def test_the_proxy_restarts_within_a_stream_and_a_subscription(behind: Behind) -> None:
    front = behind(retry_min_ms=0, retry_max_ms=10, producer_timeout_seconds=WAIT_SECONDS)
    with client_of(front) as client:
        with client.subscribe("a") as events, client.stream("a") as stream:
            for number in range(3):
                stream.send(str(number))
                assert next(events).data == str(number)
            restart(front)
            for number in range(3, 6):
                stream.send(str(number))
                assert next(events).data == str(number)
        assert texts(client, "a") == ([str(number) for number in range(6)], "closed")


def test_cancel_and_failure_pass(behind: Behind) -> None:
    front = behind()
    with client_of(front) as client:
        with pytest.raises(ZeroDivisionError), client.stream("a") as stream:
            stream.send("x")
            wait_for(lambda: client.history("a").events, "nginx to pass it on, which it doesn't after a cut")
            raise ZeroDivisionError
        assert texts(client, "a") == (["x"], "failed")
        with pytest.raises(Cancelled), client.stream("b") as stream:
            stream.send("x")
            wait_for(lambda: client.history("b").events, "the stream has reached the broker")
            client.cancel("b")
            if front.proxy.answers_early:
                wait_for(stream.check, "it never returns true")
        assert texts(client, "b")[1] == "cancelled"
