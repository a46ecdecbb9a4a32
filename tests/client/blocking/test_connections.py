"""Kept connections: they are used again, bounded, and replaced once they are stale; threads and forks don't disturb them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.client import BlockingClient, End, PublishError, publish
from broker.client.blocking.connections import MAX_IDLE, ConnectionPool, Origin
from tests.client.blocking.programs import run_program
from tests.client.servers import CREATED, problem
from tests.support.broker_process import BrokerProcess, SharedBrokers
from tests.support.local_broker import Server
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import WAIT_SECONDS, until, wait_for

KEPT = CREATED.replace(b"Connection: close\r\n", b"")
"""The response to one event, on a connection that stays open."""
CLOSED = b""
"""Instead of an answer: the connection is closed before another request."""


def data_of(broker: BrokerProcess, topic: str) -> list[str]:
    """The data of all events that a topic keeps."""
    with BlockingClient(broker.url) as client:
        return [event.data for event in client.history(topic, limit=1000).events]


class ThreadedServer:
    """Answers requests with the next of `answers`, one for each; a context manager.

    None ends the connection after a request, without an answer.

    Attributes:
        requests: the bytes of each request, in order.
        connections: how many there have been.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ThreadedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WAIT_SECONDS)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection:
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while self._answers and (request := connection.recv(65536)):
            while b"\r\n\r\n" not in request or not request.endswith(b"x"):
                request += connection.recv(65536)
            self.requests.append(request)
            answer = self._answers.pop(0)
            if answer is None:
                return
            connection.sendall(answer)
            if b"Connection: close" in answer:
                return
            if self._answers[:1] == [CLOSED]:
                self._answers.pop(0)
                return


def key_of(request: bytes) -> bytes:
    (key,) = [line for line in request.split(b"\r\n") if line.startswith(b"Idempotency-Key: ")]
    return key


# Reuse


def test_requests_share_a_connection() -> None:
    with ThreadedServer(*[KEPT] * 5) as server, BlockingClient(server.url) as client:
        for _ in range(5):
            assert client.publish("a", "x") == "5-0"
        assert (server.connections, len(server.requests)) == (1, 5)


def test_the_function_publish_keeps_its_connection_too() -> None:
    with ThreadedServer(*[KEPT] * 5) as server:
        for _ in range(5):
            assert publish(server.url, "a", "x") == "5-0"
        assert (server.connections, len(server.requests)) == (1, 5)


def test_a_response_that_ends_the_connection_is_the_last_on_it() -> None:
    with ThreadedServer(CREATED, CREATED) as server, BlockingClient(server.url) as client:
        for _ in range(2):
            client.publish("a", "x")
        assert server.connections == 2


def test_idle_connections_are_bounded() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        origin = Origin("http", "127.0.0.1", listener.getsockname()[1])
        pool = ConnectionPool()
        taken = [pool.take(origin, 5) for _ in range(2 * MAX_IDLE)]
        far = [stack.enter_context(listener.accept()[0]) for _ in taken]
        for connection in taken:
            pool.give_back(connection)
        assert [one.recv(1) for one in far[:MAX_IDLE]] == [b""] * MAX_IDLE, (
            "those idle for longest are closed"
        )
        assert {pool.take(origin, 5).sock.getsockname() for _ in range(MAX_IDLE)} == {
            one.getpeername() for one in far[MAX_IDLE:]
        }
        for connection in taken:
            connection.close()


def test_after_close_no_connection_is_kept() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pool = ConnectionPool()
        idle, used = (pool.connect(Origin("http", *listener.getsockname()), 5) for _ in range(2))
        far = [stack.enter_context(listener.accept()[0]) for _ in range(2)]
        pool.give_back(idle)
        pool.close()
        assert far[0].recv(1) == b""
        pool.give_back(used)
        assert far[1].recv(1) == b""


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def test_an_interim_response_of_a_proxy_is_not_the_answer() -> None:
    """If it were taken for one, the next request would get the answer to this one."""
    answers = [KEPT.replace(b"5-0", b"%d-0" % number) for number in range(3)]
    with (
        ThreadedServer(*(INTERIM * count + answers[count] for count in range(3))) as server,
        BlockingClient(server.url, patience_seconds=0) as client,
    ):
        assert [client.publish("a", "x") for _ in range(3)] == ["0-0", "1-0", "2-0"]
        assert server.connections == 1


@pytest.mark.parametrize("answer", [INTERIM * 1000, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
def test_a_connection_without_an_answer_is_not_kept(answer: bytes) -> None:
    with ThreadedServer(answer) as server, BlockingClient(server.url, patience_seconds=0) as client:
        with pytest.raises(PublishError):
            client.publish("a", "x")
        assert client._pool._idle == []


# Stale connections


def test_a_connection_that_the_broker_closed_is_replaced_before_anything_is_sent() -> None:
    with (
        ThreadedServer(KEPT, CLOSED, KEPT) as server,
        BlockingClient(server.url, patience_seconds=0) as client,
    ):
        client.publish("a", "x")
        (idle,) = client._pool._idle
        wait_for(lambda: idle.is_stale, "the end of the connection to arrive")
        assert client.publish("a", "x") == "5-0"
        assert (server.connections, len(server.requests)) == (2, 2)


def test_a_kept_connection_that_breaks_is_replaced_once_with_the_same_key() -> None:
    """The broker closes it while the request is on its way, perhaps after it has published the event."""
    with (
        ThreadedServer(KEPT, None, KEPT) as server,
        BlockingClient(server.url, patience_seconds=0) as client,
    ):
        client.publish("a", "x")
        assert client.publish("a", "x") == "5-0"
        _, lost, repeated = server.requests
        assert key_of(lost) == key_of(repeated)


def test_a_new_connection_that_breaks_is_an_error() -> None:
    with ThreadedServer(None, KEPT) as server:
        with pytest.raises(PublishError) as caught:
            publish(server.url, "a", "x")
        assert caught.value.code == "unreachable"
        assert len(server.requests) == 1


def test_without_a_key_a_kept_connection_that_breaks_is_an_error() -> None:
    """The broker has no room for keys; the event may have been published."""
    full = problem("429 Too Many Requests", "rate-limited", "Retry-After: 60")
    with (
        ThreadedServer(full, KEPT, None) as server,
        BlockingClient(server.url, patience_seconds=0) as client,
    ):
        client.publish("a", "x")
        with pytest.raises(PublishError) as caught:
            client.publish("a", "x")
        assert caught.value.code == "unreachable"
        assert [b"Idempotency-Key" in request for request in server.requests] == [True, False, False]


@pytest.mark.parametrize("patience_seconds", [0, WAIT_SECONDS])
def test_a_refused_repetition_is_never_sent_without_its_key(patience_seconds: float) -> None:
    """The first request may have published the event. A rate limit refuses the second one before the broker knows the key."""
    full = problem("429 Too Many Requests", "rate-limited")
    with (
        ThreadedServer(KEPT, None, full, KEPT) as server,
        BlockingClient(server.url, patience_seconds=patience_seconds) as client,
    ):
        client.publish("a", "x")
        with contextlib.nullcontext() if patience_seconds else pytest.raises(PublishError):
            client.publish("a", "x")
        _, *requests = server.requests
        assert len(requests) == (3 if patience_seconds else 2)
        assert len({key_of(request) for request in requests}) == 1


async def test_a_lost_response_publishes_once(server: Server) -> None:
    """The event is published, and then the kept connection breaks before the response has arrived."""
    async with TcpProxy(server.port) as proxy:
        with BlockingClient(proxy.url, patience_seconds=0) as client:
            await asyncio.to_thread(client.publish, "a", "1")
            proxy.swallow = True
            publishing = asyncio.create_task(asyncio.to_thread(client.publish, "a", "2"))
            await until(lambda: server.node.metrics.published.value == 2, "the event is published")
            proxy.swallow = False
            proxy.cut()
            event_id = await publishing
            history = await asyncio.to_thread(client.history, "a")
    assert [event.data for event in history.events] == ["1", "2"]
    assert history.events[1].id == event_id
    assert proxy.connections == 2


def test_the_broker_may_restart_between_two_requests(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(drain_seconds=0.1)
    with BlockingClient(broker.url, patience_seconds=0) as client:
        client.publish("a", "before")
        broker.terminate()
        broker.start()
        client.publish("a", "after")
        publish(broker.url, "a", "by the function")
    assert data_of(broker, "a") == ["after", "by the function"]


def test_publishing_waits_for_a_broker_that_restarts(shared_brokers: SharedBrokers) -> None:
    broker = shared_brokers.get(drain_seconds=0.1)
    with BlockingClient(broker.url, patience_seconds=WAIT_SECONDS) as client:
        client.publish("a", "before")
        broker.kill()
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(client.publish, "a", "meanwhile")
            broker.start()
            waiting.result(WAIT_SECONDS)
    assert data_of(broker, "a") == ["meanwhile"]


# Threads and processes


def test_threads_share_a_client(broker: BrokerProcess) -> None:
    with BlockingClient(broker.url) as client, ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(lambda number: client.publish("a", str(number)), range(400)))
        assert len(client._pool._idle) <= MAX_IDLE
    assert sorted(data_of(broker, "a"), key=int) == [str(number) for number in range(400)]
    with BlockingClient(broker.url) as client:
        by_id = {event.id: event.data for event in client.history("a", limit=1000).events}
    assert [by_id[event_id] for event_id in ids] == [str(number) for number in range(400)]


def test_a_client_is_closed_while_threads_subscribe() -> None:
    client = BlockingClient("http://127.0.0.1:1")
    stop = threading.Event()

    def subscribe() -> None:
        while not stop.is_set():
            kept = [client.subscribe("a") for _ in range(200)]
            del kept

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as threads:
            subscribing = [threads.submit(subscribe) for _ in range(3)]
            try:
                for _ in range(300):
                    client.close()
            finally:
                stop.set()
            for one in subscribing:
                one.result(WAIT_SECONDS)
    finally:
        sys.setswitchinterval(interval)


forks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@forks
@pytest.mark.parametrize("program", ["prefork", "pool_of_processes"])
def test_forked_workers_have_connections_of_their_own(broker: BrokerProcess, program: str) -> None:
    run_program(program, broker.url)
    for worker in range(4):
        assert data_of(broker, f"workers.{worker}") == [str(number) for number in range(50)]


@forks
def test_a_fork_within_a_stream_leaves_it_to_the_parent(broker: BrokerProcess) -> None:
    run_program("fork_in_stream", broker.url)
    with BlockingClient(broker.url) as client:
        *events, end = client.follow("a", ends=True)
    assert [event.data for event in events] == ["1", "2"]
    assert isinstance(end, End)
    assert end.reason == "closed"


@forks
def test_what_the_parent_closes_is_closed_although_the_child_lives(broker: BrokerProcess) -> None:
    run_program("close_after_fork", broker.url)
