"""Streams without asyncio: complete in spite of cuts; cancels are noticed at the next call; ends say why."""

from __future__ import annotations

import asyncio
import itertools
import selectors
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import trustme

from broker.client import BlockingClient, BlockingStream, Cancelled, End, PublishError, sent_events
from broker.client.retries import LASTING_SECONDS
from tests.client.servers import ScriptedServer, ServerConnection, answer, problem
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.local_broker import Serve, Server
from tests.support.tcp_proxy import CuttingProxy, TcpProxy
from tests.support.tokens import HMAC, SECRET
from tests.support.waiting import WAIT_SECONDS, wait_for

TOKENS = [f"{number}:" + "x" * (number * 37 % 400) for number in range(60)]


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[BlockingClient]:
    with BlockingClient(broker.url) as client:
        yield client


def followed(client: BlockingClient, topic: str = "a") -> tuple[list[str], str]:
    """The data of all events of a topic that has ended, and the reason of its end."""
    *events, end = client.follow(topic, ends=True)
    assert isinstance(end, End)
    return [event.data for event in events], end.reason


def test_a_stream_closes_its_topic(client: BlockingClient) -> None:
    with client.stream("a", retain="24h") as stream:
        stream.send("one", event="t")
        stream.send(b"zw\xc3\xb6lf\n")
    events = list(client.follow("a"))
    assert [(event.data, event.type) for event in events] == [("one", "t"), ("zwölf\n", None)]
    assert followed(client)[1] == "closed"


def test_an_event_is_delivered_before_the_next_one_is_sent(client: BlockingClient) -> None:
    with client.stream("a") as stream:
        events = client.subscribe("a", since="earliest")
        for number in range(10):
            stream.send(str(number))
            assert next(events).data == str(number)
        events.close()


def test_an_empty_stream_closes(client: BlockingClient) -> None:
    with client.stream("a"):
        pass
    assert followed(client) == ([], "closed")


def test_large_events(client: BlockingClient) -> None:
    texts = [str(number) * 200_000 for number in range(5)]
    with client.stream("a", retain="1h") as stream:
        for text in texts:
            stream.send(text)
    assert followed(client)[0] == texts


# Cuts


@pytest.mark.parametrize(
    "cuts",
    [
        [("up", 700), ("down", 1), ("up", 900)],
        [("up", 1), ("up", 2), ("up", 500)],
        [("down", 1), ("down", 1)],
        [("up", 12_000)],
    ],
    ids=str,
)
async def test_a_stream_continues_after_connections_are_cut(
    server: Server, cuts: list[tuple[str, int]]
) -> None:
    def produce(url: str) -> None:
        with BlockingClient(url) as client, client.stream("a") as stream:
            for token in TOKENS:
                stream.send(token)

    async with CuttingProxy(server.port, cuts) as way:  # type: ignore[arg-type]
        await asyncio.to_thread(produce, way.url)
        assert way.connections > len(cuts)
    with BlockingClient(server.url) as client:
        assert await asyncio.to_thread(followed, client) == (TOKENS, "closed")


async def test_check_connects_again_between_two_events(server: Server) -> None:
    """Else the topic of a producer that is busy for long would close as abandoned."""
    loop = asyncio.get_running_loop()

    def produce(way: TcpProxy) -> None:
        with BlockingClient(way.url) as client, client.stream("a") as stream:
            stream.send("1")
            is_out(client)
            loop.call_soon_threadsafe(way.cut)
            connections = way.connections

            def is_back() -> bool:
                stream.check()
                return way.connections > connections

            wait_for(is_back, "check has connected")
            stream.send("2")

    async with TcpProxy(server.port) as way:
        await asyncio.to_thread(produce, way)
    with BlockingClient(server.url) as client:
        assert await asyncio.to_thread(followed, client) == (["1", "2"], "closed")


async def test_a_block_that_is_busy_may_lose_a_connection_now_and_then(server: Server) -> None:
    """As by a proxy's idle time limit. Between them the broker was reachable, so the patience starts anew."""
    patience_seconds = 2 * LASTING_SECONDS
    loop = asyncio.get_running_loop()

    def produce(way: TcpProxy) -> None:
        with (
            BlockingClient(way.url, patience_seconds=patience_seconds) as client,
            client.stream("a") as stream,
        ):
            stream.send("1")
            is_out(client)
            for _ in range(2):
                first, cut_at = stream._body, time.monotonic()
                loop.call_soon_threadsafe(way.cut)

                def is_over(first: object = first, cut_at: float = cut_at) -> bool:
                    stream.check()
                    is_back = stream._body is not None and stream._body is not first
                    return is_back and time.monotonic() > cut_at + patience_seconds

                wait_for(is_over, "check has connected, and the patience with the cut is over")
            stream.send("2")

    async with TcpProxy(server.port) as way:
        await asyncio.to_thread(produce, way)
    with BlockingClient(server.url) as client:
        assert await asyncio.to_thread(followed, client) == (["1", "2"], "closed")


async def test_the_patience_ends_if_a_proxy_answers_each_time_for_its_broker() -> None:
    """A proxy tries for a while to reach the broker. That was taken for a connection that lasted, and the stream went on for ever."""

    async def answer_late(connection: ServerConnection) -> None:
        await asyncio.sleep(LASTING_SECONDS + 0.2)  # the time is the point
        await connection.send(
            b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )

    def produce(url: str) -> None:
        with (
            BlockingClient(url, patience_seconds=2 * LASTING_SECONDS) as client,
            client.stream("a") as stream,
        ):
            wait_for(stream.check, "it raises")

    async with ScriptedServer(answer_late) as server:
        with pytest.raises(PublishError) as caught:
            await asyncio.to_thread(produce, server.url)
    assert caught.value.status == 504
    assert len(server.accepted) > 1


async def test_the_patience_ends_if_no_connection_lasts() -> None:
    """Such as those to a proxy without its broker."""

    async def cut(connection: ServerConnection) -> None:
        connection.reset()

    def produce(url: str) -> None:
        with BlockingClient(url, patience_seconds=3) as client, client.stream("a") as stream:
            wait_for(stream.check, "it raises")

    async with ScriptedServer(cut) as server:
        with pytest.raises(PublishError) as caught:
            await asyncio.to_thread(produce, server.url)
    assert caught.value.code == "unreachable"
    assert len(server.accepted) > 1


async def test_the_kept_events_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_events, "MAX_KEPT_BYTES", 5000)
    sizes = []

    def produce() -> None:
        with BlockingClient(server.url) as client, client.stream("a") as stream:
            for number in range(500):
                stream.send(str(number))
                sizes.append(stream._events.kept_bytes)

    await asyncio.to_thread(produce)
    assert max(sizes) <= 5000
    with BlockingClient(server.url) as client:
        assert len((await asyncio.to_thread(followed, client))[0]) == 500


def test_an_unreachable_broker_is_an_error_after_the_time_limit() -> None:
    with BlockingClient("http://127.0.0.1:9", patience_seconds=0.3) as client:
        with pytest.raises(PublishError) as caught, client.stream("a"):
            raise AssertionError("the block is not entered")
        assert caught.value.code == "unreachable"


def test_a_broker_that_goes_away_is_an_error_after_the_time_limit() -> None:
    with (
        BrokerProcess() as broker,
        BlockingClient(broker.url, patience_seconds=0.3) as client,
        pytest.raises(PublishError) as caught,
        client.stream("a") as stream,
    ):
        stream.send("x")
        broker.kill()
        for _ in range(1000):
            stream.send("x")
    assert caught.value.code == "unreachable"


# Cancel


def is_out(client: BlockingClient, topic: str = "a") -> None:
    """Wait until the broker has the stream."""
    wait_for(lambda: client.history(topic).events, "the first event is out")


def send_until_it_raises(stream: BlockingStream) -> None:
    """At most for the time that tests wait."""
    deadline = time.monotonic() + WAIT_SECONDS
    for number in itertools.count():
        assert time.monotonic() < deadline
        stream.send(str(number))


def test_cancel_is_raised_at_the_next_event(client: BlockingClient, broker: BrokerProcess) -> None:
    with pytest.raises(Cancelled), client.stream("a") as stream:
        stream.send("before")
        is_out(client)
        client.cancel("a")
        assert stream._body is not None
        selector = selectors.DefaultSelector()
        selector.register(stream._body._connection.sock, selectors.EVENT_READ)
        assert selector.select(WAIT_SECONDS), "the answer has arrived"
        stream.send("after")
        raise AssertionError("not at the next event")
    assert followed(client) == (["before"], "cancelled")


def test_cancel_is_raised_by_check(client: BlockingClient) -> None:
    with pytest.raises(Cancelled), client.stream("a") as stream:
        stream.send("x")
        is_out(client)
        client.cancel("a")
        wait_for(stream.check, "it never returns true")
    assert followed(client)[1] == "cancelled"


def test_cancel_reaches_a_block_that_ends(client: BlockingClient, broker: BrokerProcess) -> None:
    with pytest.raises(Cancelled), client.stream("a") as stream:
        stream.send("x")
        is_out(client)
        client.cancel("a")
    assert followed(client) == (["x"], "cancelled")


def test_cancel_is_raised_at_the_end_even_if_the_block_catches_it(client: BlockingClient) -> None:
    with pytest.raises(Cancelled), client.stream("a") as stream:
        stream.send("x")
        is_out(client)
        client.cancel("a")
        try:
            send_until_it_raises(stream)
        except Cancelled:
            """The block goes on, as it may."""
        with pytest.raises(Cancelled):
            stream.send("more")


async def test_cancel_reaches_a_producer_whose_connection_takes_no_more() -> None:
    """The broker answers although it doesn't read."""
    sent: list[int] = []

    async def full(connection: ServerConnection) -> None:
        transport = cast("asyncio.Transport", connection.writer.transport)
        transport.pause_reading()
        before = -1
        while before != len(sent):  # until the producer is stuck
            before = len(sent)
            await asyncio.sleep(0.1)
        await connection.send(problem("409 Conflict", "cancelled"))
        transport.resume_reading()
        await connection.left()

    def produce(url: str) -> None:
        with BlockingClient(url) as client, client.stream("a") as stream:
            while True:
                stream.send("x" * 100_000)
                sent.append(1)

    async with ScriptedServer(full) as server:
        with pytest.raises(Cancelled):
            await asyncio.wait_for(asyncio.to_thread(produce, server.url), WAIT_SECONDS)


# Other ends


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError, "failed"),
        (KeyboardInterrupt, "stopped"),
        (SystemExit, "stopped"),
    ],
)
def test_an_error_ends_the_topic_after_all_that_was_sent(
    client: BlockingClient, error: type[BaseException], reason: str
) -> None:
    with pytest.raises(error), client.stream("a") as stream:
        for number in range(100):
            stream.send(str(number))
        raise error
    assert followed(client) == ([str(number) for number in range(100)], reason)


def test_a_generator_that_is_closed_ends_the_topic_as_stopped(client: BlockingClient) -> None:
    """Such as the body of a response after its client has gone."""

    def produce() -> Iterator[str]:
        with client.stream("a") as stream:
            for text in ("1", "2", "3"):
                stream.send(text)
                yield text

    body = produce()
    assert next(body) == "1"
    body.close()  # type: ignore[attr-defined]
    assert followed(client) == (["1"], "stopped")


def test_without_a_broker_an_error_of_the_block_is_raised_all_the_same() -> None:
    with (
        BrokerProcess() as broker,
        BlockingClient(broker.url, patience_seconds=0) as client,
        pytest.raises(ZeroDivisionError),
        client.stream("a") as stream,
    ):
        stream.send("x")
        broker.kill()
        raise ZeroDivisionError


def test_a_closed_topic_is_refused(client: BlockingClient) -> None:
    client.end("a")
    with pytest.raises(PublishError) as caught, client.stream("a") as stream:
        send_until_it_raises(stream)
    assert (caught.value.status, caught.value.code) == (409, "closed")


def test_a_refused_event_ends_the_topic_as_failed(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(max_event_bytes=1024)
    with BlockingClient(broker.url) as client:
        for topic, texts in (("a", ["x", "x" * 2000]), ("b", ["x" * 2000])):
            with pytest.raises(PublishError) as caught, client.stream(topic) as stream:
                for text in texts:
                    stream.send(text)
            assert caught.value.code == "too-large"
            assert followed(client, topic) == (texts[:-1], "failed")


def test_an_error_of_another_request_ends_the_topic_as_failed(client: BlockingClient) -> None:
    client.end("b")
    with pytest.raises(PublishError, match="closed"), client.stream("a") as stream:
        stream.send("x")
        client.publish("b", "x")
    assert followed(client) == (["x"], "failed")


def test_a_stream_is_used_within_its_block(client: BlockingClient) -> None:
    stream = client.stream("a")
    with pytest.raises(RuntimeError, match="within `with`"):
        stream.send("x")
    with stream:
        stream.send("x")
    with pytest.raises(RuntimeError, match="within `with`"):
        stream.send("x")
    with pytest.raises(PublishError, match="invalid-topic"):
        client.stream("a b")


def test_a_bad_event_changes_nothing(client: BlockingClient) -> None:
    with client.stream("a") as stream:
        for bad in ("\ud800", b"\xff"):
            with pytest.raises(ValueError):
                stream.send(bad)
        stream.send("good")
    assert followed(client) == (["good"], "closed")


async def test_a_stream_needs_a_grant(serve: Serve) -> None:
    server = await serve(jwt_secrets=[SECRET])

    def produce(token: str | Callable[[], str]) -> None:
        with BlockingClient(server.url, token=token) as client, client.stream("a") as stream:
            stream.send("x")

    await asyncio.to_thread(produce, lambda: HMAC.token(["a"]))
    with pytest.raises(PublishError) as caught:
        await asyncio.to_thread(produce, HMAC.token(["b"]))
    assert caught.value.code == "forbidden"


@pytest.mark.parametrize(
    "response", [b"junk", answer("200 OK", b"{}"), answer("302 Found", b"", "Location: /")], ids=str
)
async def test_what_no_broker_answers_in_mid_stream(response: bytes) -> None:
    def produce(url: str) -> None:
        seconds = 1 if response == b"junk" else WAIT_SECONDS  # which might become the line of a response
        with (
            BlockingClient(url, timeout_seconds=seconds, patience_seconds=0) as client,
            client.stream("a") as stream,
        ):
            send_until_it_raises(stream)

    async def respond(connection: ServerConnection) -> None:
        await connection.send(response)
        await connection.left()

    async with ScriptedServer(respond) as server:
        with pytest.raises(PublishError) as caught:
            await asyncio.to_thread(produce, server.url)
    assert caught.value.code == ("unreachable" if response == b"junk" else "unexpected")


async def test_an_interim_response_of_a_proxy_is_not_the_answer() -> None:
    bodies: list[bytes] = []
    received = threading.Event()

    async def respond(connection: ServerConnection) -> None:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n")
        bodies.append(await connection.reader.readuntil(b'one"}\n\r\n'))
        received.set()
        bodies.append(await connection.reader.readuntil(b"\r\n0\r\n\r\n"))
        await connection.send(answer("200 OK", b'{"topic": "a", "published": 2}'))

    def produce(url: str) -> None:
        with BlockingClient(url, patience_seconds=0) as client, client.stream("a") as stream:
            stream.send("one")
            assert received.wait(WAIT_SECONDS)
            stream.check()
            stream.send("two")

    async with ScriptedServer(respond) as server:
        await asyncio.to_thread(produce, server.url)
        assert len(server.accepted) == 1
    assert b"two" in bodies[1]


def test_streams_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with BrokerProcess(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as broker:
        url = f"https://localhost:{broker.port}"
        with BlockingClient(url, tls=trusting) as client:
            for text in ("1", "2"):
                client.publish("b", text)
            with client.stream("a") as stream:
                for number in range(200):
                    stream.send(str(number) * 100)
            assert followed(client)[0] == [str(number) * 100 for number in range(200)]
            with pytest.raises(ZeroDivisionError), client.stream("c") as stream:
                stream.send("x")
                raise ZeroDivisionError
            assert followed(client, "c") == (["x"], "failed")
            with pytest.raises(Cancelled), client.stream("d") as stream:
                stream.send("x")
                is_out(client, "d")
                client.cancel("d")
                send_until_it_raises(stream)
            assert followed(client, "d")[1] == "cancelled"
